"""One thread as in a pod's share of a machine, nothing left running behind, and a store that may fail."""

import uuid
from collections.abc import Iterator

import fsspec
import pytest
import torch

from tests.trainer.places import Store, works
from tests.trainer.processes import stop_server

# The arithmetic of these tests is small: more threads only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    stop_server()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> str:
    """Location in a `Store`."""
    fsspec.register_implementation("store", Store, clobber=True)
    monkeypatch.setattr(Store, "asked", staticmethod(works))
    return f"store://bucket/{uuid.uuid4()}"
