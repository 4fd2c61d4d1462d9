"""The tests of the commands train many tiny networks, whose time is the tracing of their graphs."""

from collections.abc import Iterator

import pytest

from mtmusic.models.cpu import lstm


@pytest.fixture(scope="module", autouse=True)
def short_loops() -> Iterator[None]:
    """An LSTM computes one frame in each turn of its loop: a smaller graph of the same steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lstm, "UNROLLED", 1)
        yield
