"""Errors that a user can correct, in one line."""

from collections import Counter
from collections.abc import Sequence

LISTED_PROBLEMS = 20
LISTED_OF_A_KIND = 5


class UserError(ValueError):
    """Wrong input. The message says what was expected, what was given, in which file, and what to do.

    A message names an argument in backticks, for example `epochs` or `overwrite=True`. A command shows its flag
    instead, without a traceback, and ends with exit code 2.

    Examples:
        >>> mtmusic.freeze(mtmusic.lstm_backbone(units=4), 3)
        Traceback (most recent call last):
        mtmusic.errors.UserError: Expected `freeze` "all", "none" or 0 to 1 (the backbone's blocks), got 3
    """

    @classmethod
    def listing(cls, heading: str, problems: Sequence[object]) -> "UserError":
        """An error for several problems: one line for a single one, else a line for each of the first 20.

        Args:
            heading: What could not be done.
            problems: The problems. More than five of the same `kind` share a line.

        Returns:
            The error.
        """
        lines = in_lines(problems)
        if len(lines) == 1:
            return cls(f"{heading}: {lines[0]}")
        shown = [f"  {line}" for line in lines[:LISTED_PROBLEMS]]
        if len(lines) > LISTED_PROBLEMS:
            shown.append(f"  ... and {len(lines) - LISTED_PROBLEMS} more")
        return cls("\n".join([f"{heading}: {len(problems)} problems", *shown]))


def in_lines(problems: Sequence[object]) -> list[str]:
    """Problems as lines. More than five that have the same `kind` share a line, with their number and the first.

    Args:
        problems: The problems.

    Returns:
        The lines.
    """
    counts = Counter(getattr(problem, "kind", None) for problem in problems)
    lines: dict[object, str] = {}
    for place, problem in enumerate(problems):
        kind = getattr(problem, "kind", None)
        if kind is None or counts[kind] <= LISTED_OF_A_KIND:
            lines[place] = str(problem)
        else:
            lines.setdefault(kind, f"{counts[kind]} times {kind}, for example {problem}")
    return list(lines.values())
