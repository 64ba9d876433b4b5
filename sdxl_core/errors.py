"""Errors that are the user's to mend; the command line prints them without a traceback and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something in a configuration, a dataset or a model folder has to be changed by the person who gave it."""

    @classmethod
    def about(cls, where: str, *, expected: str, got: object, fix: str = "") -> UserError:
        """The usual form: where it is, what belongs there, what stands there, and the nearest remedy."""
        sentence = f"{where}: expected {expected}, got {got}"
        return cls(f"{sentence}. {fix}" if fix else sentence)


def did_you_mean(got: str, choices: Iterable[str]) -> str:
    """`Did you mean 'text'?` for the choice nearest to `got`, or an empty string where none is near."""
    near = difflib.get_close_matches(got, list(choices), n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else ""
