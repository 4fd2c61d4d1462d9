"""One problem in one line; several in a list that ends."""

from typing import NamedTuple

import pytest

from mtmusic.errors import LISTED_PROBLEMS, UserError


def test_one_problem_is_one_line() -> None:
    assert str(UserError.listing("Cannot use data", ["line 2: no class"])) == "Cannot use data: line 2: no class"


def test_several_problems_are_a_line_each() -> None:
    expected = "Cannot use data: 2 problems\n  line 2: no class\n  line 4: no array"
    assert str(UserError.listing("Cannot use data", ["line 2: no class", "line 4: no array"])) == expected


@pytest.mark.parametrize(("count", "rest"), [(20, None), (21, 1), (1020, 1000)])
def test_the_first_twenty_are_shown_and_the_rest_counted(count: int, rest: int | None) -> None:
    assert LISTED_PROBLEMS == 20
    heading, *lines = str(UserError.listing("Cannot use data", [f"line {i}" for i in range(count)])).splitlines()
    assert heading == f"Cannot use data: {count} problems"
    assert lines[:20] == [f"  line {i}" for i in range(20)]
    assert lines[20:] == ([] if rest is None else [f"  ... and {rest} more"])


class Problem(NamedTuple):
    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


def test_many_problems_of_a_kind_are_one_line() -> None:
    rows, few = (
        [Problem("no class", f"line {i}") for i in range(6)],
        [Problem("no array", f"row {i}") for i in range(5)],
    )
    assert str(UserError.listing("Cannot use data", rows)) == "Cannot use data: 6 times no class, for example line 0"
    heading, *lines = str(UserError.listing("Cannot use data", [few[0], *rows, *few[1:]])).splitlines()
    assert heading == "Cannot use data: 11 problems"
    assert lines == ["  row 0", "  6 times no class, for example line 0", *(f"  row {i}" for i in range(1, 5))]


def test_a_listing_is_a_user_error() -> None:
    assert type(UserError.listing("Cannot use data", ["a", "b"])) is UserError


def test_a_wrong_argument_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Expected `epochs` of 1 or more, got 0"):
        raise UserError("Expected `epochs` of 1 or more, got 0")
