#!/bin/bash
# Runs a command as the user nobody, who has no privileges at all.
#
#   as_nobody.sh STASH PATH... -- COMMAND...
#
# Where a directory above one of the PATHs lets only its owner pass, as a home directory may, it is replaced in a
# private mount namespace by one that lets everybody pass and holds the same. STASH is an empty directory to do it in.
set -euo pipefail

if [ "${IN_PRIVATE_MOUNTS:-}" != 1 ]; then
    IN_PRIVATE_MOUNTS=1 exec unshare --mount --propagation private bash "$0" "$@"
fi
unset IN_PRIVATE_MOUNTS

stash=$1
shift

pass_through() {
    local folder=$1 entry keep
    if [ $((0$(stat -c %a "$folder") & 1)) = 1 ]; then
        return
    fi
    keep=$stash/$RANDOM$RANDOM
    mkdir "$keep"
    mount --bind "$folder" "$keep"
    mount -t tmpfs -o mode=755 none "$folder"
    shopt -s nullglob dotglob
    for entry in "$keep"/*; do
        if [ -L "$entry" ]; then
            cp -P "$entry" "$folder/"
            continue
        elif [ -d "$entry" ]; then
            mkdir "$folder/${entry##*/}"
        else
            touch "$folder/${entry##*/}"
        fi
        mount --bind "$entry" "$folder/${entry##*/}"
    done
}

while [ "$1" != -- ]; do
    folder=
    IFS=/ read -ra parts <<<"${1#/}"
    for part in "${parts[@]:0:${#parts[@]}-1}"; do
        folder=$folder/$part
        pass_through "$folder"
    done
    shift
done
shift
exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all "$@"
