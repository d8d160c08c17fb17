"""The images that pods of the embedded cluster may name.

There is no container runtime: an image stands for a command on this machine's file system, with the Python
that started the cluster first on its path. `host` has no entry point and serves tests that bring their
command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from e2e.local.node.config import ImageConfig


def default_images() -> Mapping[str, ImageConfig]:
    """The catalogue by repository, for the interpreter that runs this."""
    # NB: not resolved; the link inside a virtual environment is what makes Python find its packages.
    interpreter = Path(sys.executable).absolute().parent
    env = {
        "PATH": os.pathsep.join((str(interpreter), "/usr/local/bin", "/usr/bin", "/bin")),
        "LANG": "C.UTF-8",
    }
    return {
        "cra-operator": ImageConfig(entrypoint=("python", "-m", "cra_operator"), env=env),
        "cra-trainer": ImageConfig(env=env),
        "host": ImageConfig(env=env),
    }
