"""What can go wrong in an evaluation, and whose fault it is."""

from __future__ import annotations


class EvalError(ValueError):
    """The user's input cannot be evaluated. The message says where, what was expected, what came and what to do."""


class NotScored(Exception):
    """One picture has no score; the message is the reason that goes into the table beside its NaN."""
