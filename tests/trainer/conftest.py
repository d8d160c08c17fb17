"""Leave nothing running behind."""

from collections.abc import Iterator

import pytest

from tests.trainer.processes import stop_server


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    stop_server()
