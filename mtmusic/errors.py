"""What a user can mend, said in one line."""

from collections import Counter
from collections.abc import Sequence

LISTED_PROBLEMS = 20
LISTED_OF_A_KIND = 5


class UserError(ValueError):
    """Wrong input: the message says what was expected, what came, in which file, and what to do.

    An argument stands in backticks, as `epochs` or `overwrite=True`. Commands show their flag in its place, without a
    traceback, and end with exit code 2.
    """

    @classmethod
    def listing(cls, heading: str, problems: Sequence[object]) -> "UserError":
        """One line of `in_lines` behind the heading; several below it, the first 20 and then a count."""
        lines = in_lines(problems)
        if len(lines) == 1:
            return cls(f"{heading}: {lines[0]}")
        shown = [f"  {line}" for line in lines[:LISTED_PROBLEMS]]
        if len(lines) > LISTED_PROBLEMS:
            shown.append(f"  ... and {len(lines) - LISTED_PROBLEMS} more")
        return cls("\n".join([f"{heading}: {len(problems)} problems", *shown]))


def in_lines(problems: Sequence[object]) -> list[str]:
    """A line a problem. More than five that have the same `kind` are one line, with their number and the first."""
    counts = Counter(getattr(problem, "kind", None) for problem in problems)
    lines: dict[object, str] = {}
    for place, problem in enumerate(problems):
        kind = getattr(problem, "kind", None)
        if kind is None or counts[kind] <= LISTED_OF_A_KIND:
            lines[place] = str(problem)
        else:
            lines.setdefault(kind, f"{counts[kind]} times {kind}, for example {problem}")
    return list(lines.values())
