"""Errors of the orchestration, and which errors are the user's to mend."""

from __future__ import annotations

from eval.errors import EvalError
from sdxl_core.errors import UserError


class ConfigError(UserError):
    """A configuration, command or input that cannot work as given."""


class StoreError(UserError):
    """The artifact store cannot do what was asked, for a reason its owner can remove."""


class TrainerStopped(RuntimeError):
    """The trainer ended before its last step; running the stage again resumes from its newest bundle."""


USER_ERRORS: tuple[type[Exception], ...] = (UserError, EvalError)
"""What the command line answers with one message and exit code 2, and what no retry can mend."""
