"""One thread as in a pod's share of a machine, and nothing left running behind."""

from collections.abc import Iterator

import pytest
import torch

from tests.trainer.processes import stop_server

# The arithmetic of these tests is small: more threads only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    stop_server()
