"""What is said when the kernel refuses, and the control socket's address."""

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from e2e.local import control
from e2e.local.errors import NoSuchClusterError
from e2e.local.namespaces import explain_refusal


def refused(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("code", "gates", "container", "fix"),
    [
        (errno.EPERM, {"kernel/unprivileged_userns_clone": "0"}, False, "kernel.unprivileged_userns_clone=1"),
        (
            errno.EACCES,
            {"kernel/apparmor_restrict_unprivileged_userns": "1"},
            False,
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (errno.ENOSPC, {"user/max_user_namespaces": "0"}, False, "user.max_user_namespaces=15000"),
        (errno.ENOSPC, {"user/max_user_namespaces": "96365"}, False, "raise the limits"),
        (errno.EPERM, {}, True, "--privileged"),
        (errno.EPERM, {"kernel/unprivileged_userns_clone": "1"}, False, "run it as root"),
    ],
)
def test_a_refusal_names_the_step_the_cause_and_the_fix(
    code: int, gates: dict[str, str], container: bool, fix: str
) -> None:
    said = explain_refusal("a PID namespace", refused(code), gates, container=container)
    assert said.startswith(f"the kernel refuses a PID namespace ({os.strerror(code)}); to allow it, ")
    assert fix in said


def test_open_gates_are_not_mentioned() -> None:
    said = explain_refusal(
        "x", refused(errno.EPERM), {"kernel/unprivileged_userns_clone": "1"}, container=False
    )
    assert "sysctl" not in said


def test_a_control_socket_may_lie_deeper_than_its_address_has_room(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["a-long-name-of-a-directory"] * 8)
    folder.mkdir(parents=True)
    with control.listen(folder / "control.sock") as listener:
        client = socket.socket(socket.AF_UNIX)
        with client, pytest.raises(OSError, match="too long"):
            client.connect(str(folder / "control.sock"))

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(connection.recv(100))

        server = threading.Thread(target=answer)
        server.start()
        assert control.request(folder / "control.sock", "status") == {"op": "status"}
        server.join()


def test_no_cluster_behind_a_missing_socket(tmp_path: Path) -> None:
    with pytest.raises(NoSuchClusterError, match="nothing runs behind"):
        control.request(tmp_path / "control.sock", "status")
