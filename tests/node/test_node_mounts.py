"""Plans of root file systems, carried out on a model of a file system."""

import posixpath
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.local.node.mounts import Kind, Mount, MountError, Plan, plan

_HOST: dict[str, str] = {
    "/bin": "-> usr/bin",
    "/etc": "dir",
    "/etc/hosts": "file",
    "/etc/resolv.conf": "-> ../run/resolve/stub.conf",
    "/dev": "dir",
    "/dev/null": "file",
    "/home": "dir",
    "/home/me": "dir",
    "/home/me/notes": "file",
    "/proc": "dir",
    "/run": "dir",
    "/tmp": "dir",
    "/tmp/clone": "dir",
    "/tmp/clone/venv": "dir",
    "/usr": "dir",
    "/usr/bin": "dir",
    "/usr/bin/python": "file",
    "/var": "dir",
    "/var/run": "-> /run",
}


class _Tree:
    def kind(self, path: str) -> Kind | None:
        entry = _HOST.get(path)
        if entry is None:
            return None
        return "link" if entry.startswith("->") else "dir" if entry == "dir" else "file"

    def names(self, path: str) -> list[str]:
        return [posixpath.basename(p) for p in _HOST if posixpath.dirname(p) == path]

    def link(self, path: str) -> str:
        return _HOST[path].removeprefix("-> ")


class _Container:
    """What a plan leads to: for each path, what is seen there, and a complaint when the host would be
    changed."""

    def __init__(self, made: Plan) -> None:
        self.own = {"/"}
        """Directories on the tmpfs."""
        self.bound: dict[str, str] = {}
        """What is bound where, the last one on top."""
        self.links: dict[str, str] = {}
        for verb, path, *rest in made.image:
            assert posixpath.dirname(path) in self.own, path
            if verb == "dir":
                self.own.add(path)
            elif verb == "link":
                self.links[path] = rest[0]
            else:
                self.bound[path] = rest[0]
        for verb, path, *rest in made.mounts:
            self.mount(path, rest[0] if verb in ("ro", "rw") else verb)

    def source(self, path: str) -> str | None:
        """The host path seen at `path`; None on the tmpfs."""
        best = max((p for p in self.bound if path == p or path.startswith(p + "/")), key=len, default=None)
        return None if best is None else self.bound[best] + path.removeprefix(best)

    def mount(self, path: str, source: str) -> None:
        assert path not in self.links, f"{path} would be followed out of the root"
        below = self.source(path)
        if below is None or below.startswith("/volume"):
            self.own.update(_ancestors(path))
        else:
            assert below in _HOST, f"{below} would have to be created on the host"
        self.bound[path] = source


def _ancestors(path: str) -> Sequence[str]:
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:i]) for i in range(1, len(parts))]


def _mounted(*targets: str, kind: Kind = "dir", keep: Sequence[str] = ()) -> _Container:
    mounts = [Mount(target=t, source=f"/volume{i}", kind=kind) for i, t in enumerate(targets)]
    return _Container(plan(mounts, _Tree(), keep=keep))


def test_the_image_is_the_host_without_its_volatile_directories() -> None:
    made = plan([], _Tree())
    assert ("image", "/usr", "/usr") in made.image
    assert ("link", "/bin", "usr/bin") in made.image
    assert not any(path.startswith("/tmp/") for _, path, *_ in made.image)
    assert ("proc", "/proc") in made.mounts
    assert ("rw", "/dev/null", "/dev/null") in made.mounts


def test_an_existing_directory_is_mounted_over_without_opening_its_parent() -> None:
    seen = _mounted("/home/me")
    assert seen.source("/home/me") == "/volume0"
    assert "/home" not in seen.own


def test_a_missing_directory_opens_its_parents_and_keeps_their_entries() -> None:
    seen = _mounted("/home/me/data/set")
    assert seen.source("/home/me/data/set") == "/volume0"
    assert seen.source("/home/me/notes") == "/home/me/notes"
    assert {"/home", "/home/me"} <= seen.own
    assert seen.source("/usr/bin/python") == "/usr/bin/python"


def test_links_are_resolved_as_the_container_sees_them() -> None:
    assert _mounted("/var/run/secrets/token").source("/run/secrets/token") == "/volume0"
    assert _mounted("/bin/tool").source("/usr/bin/tool") == "/volume0"
    assert _mounted("/etc/resolv.conf", kind="file").source("/run/resolve/stub.conf") == "/volume0"


def test_a_file_in_the_way_of_a_directory_is_replaced() -> None:
    seen = _mounted("/etc/hosts")
    assert seen.source("/etc/hosts") == "/volume0"
    assert "/etc" in seen.own


def test_mounts_nest_whatever_their_order() -> None:
    seen = _mounted("/data/inner", "/data")
    assert seen.source("/data/x") == "/volume1/x"
    assert seen.source("/data/inner/x") == "/volume0/x"


@pytest.mark.parametrize("targets", [(), ("/tmp",), ("/tmp/clone",)])
def test_kept_paths_stay_visible(targets: tuple[str, ...]) -> None:
    seen = _mounted(*targets, keep=["/tmp/clone/venv", "/usr/bin"])
    assert seen.source("/tmp/clone/venv/x") == "/tmp/clone/venv/x"


@pytest.mark.parametrize("target", ["data", "", "/", "/.."])
def test_impossible_targets_are_named(target: str) -> None:
    with pytest.raises(MountError, match="mountPath"):
        _mounted(target)


_PART = st.sampled_from(["etc", "hosts", "home", "me", "usr", "bin", "var", "run", "tmp", "dev", "new", "x"])
_TARGET = st.lists(_PART, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(_TARGET, max_size=4, unique=True))
def test_no_plan_changes_the_host_and_all_targets_are_reached(targets: list[str]) -> None:
    try:
        _mounted(*targets, keep=["/tmp/clone"])
    except MountError as error:
        assert "is beneath the file /etc/hosts" in str(error)  # noqa: PT017 - most examples do not raise
