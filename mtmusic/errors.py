"""What a user can mend, said in one line."""

from collections.abc import Sequence

LISTED_PROBLEMS = 20


class UserError(ValueError):
    """Wrong input: the message says what was expected, what came, in which file, and what to do.

    An argument stands in backticks, as `epochs` or `overwrite=True`. Commands show their flag in its place, without a
    traceback, and end with exit code 2.
    """

    @classmethod
    def listing(cls, heading: str, problems: Sequence[object]) -> "UserError":
        """One problem in one line; several below a heading, the first 20 and then a count."""
        if len(problems) == 1:
            return cls(f"{heading}: {problems[0]}")
        lines = [
            f"{heading}: {len(problems)} problems",
            *(f"  {line}" for line in problems[:LISTED_PROBLEMS]),
        ]
        if len(problems) > LISTED_PROBLEMS:
            lines.append(f"  ... and {len(problems) - LISTED_PROBLEMS} more")
        return cls("\n".join(lines))
