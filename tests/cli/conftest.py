"""The tests of the commands train many tiny networks, whose time is the tracing of their graphs."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from mtmusic.models.cpu import lstm
from mtmusic.training.recipes import AFFECT_RECIPES, RECIPES


@pytest.fixture(scope="module", autouse=True)
def short_loops() -> Iterator[None]:
    """An LSTM computes one frame in each turn of its loop: a smaller graph of the same steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lstm, "UNROLLED", 1)
        yield


@pytest.fixture(scope="module")
def small_cnn() -> Iterator[None]:
    """The CNN that a command trains by default has two small blocks in the place of the lab's four."""
    with pytest.MonkeyPatch.context() as patch:
        for recipes in (RECIPES, AFFECT_RECIPES):
            patch.setitem(recipes, "cnn", replace(recipes["cnn"], blocks=((4, 3), (4, 3))))
        yield
