"""Errors of the orchestration, and which errors are the user's to mend."""

from __future__ import annotations

from eval.errors import EvalError
from sdxl_core.errors import UserError
from sdxl_core.exit_codes import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INCONCLUSIVE,
    EXIT_PREEMPTED,
    EXIT_REJECTED,
    EXIT_USER_ERROR,
)


class ConfigError(UserError):
    """A configuration, command or input that cannot work as given."""


class StoreError(UserError):
    """The artifact store cannot do what was asked, for a reason its owner can remove."""


class StoreAway(ConnectionError):
    """The shared store cannot be reached, which may pass."""


class TrainerStopped(RuntimeError):
    """The trainer ended before its last step; running the stage again resumes from its newest bundle."""


class TrainerPreempted(TrainerStopped):
    """It was asked to, and has saved."""


class TrainerFailed(RuntimeError):
    """The trainer ended before its last step, and would do so again."""


class JobStopped(RuntimeError):
    """Somebody has stopped the job that a stage ran in elsewhere; what it has saved is gone on from, when asked to."""


class StageTimedOut(TimeoutError):
    """A stage took longer than the configuration allows; what it has saved is gone on from. Prefect says `TimedOut`."""


EXIT_CODES: dict[type[Exception], int] = {
    UserError: EXIT_USER_ERROR,
    EvalError: EXIT_USER_ERROR,
    TrainerPreempted: EXIT_PREEMPTED,
    TrainerStopped: EXIT_FAILED,
    TrainerFailed: EXIT_FAILED,
    JobStopped: EXIT_PREEMPTED,
    StageTimedOut: EXIT_FAILED,
    StoreAway: EXIT_FAILED,
}
"""What the command line ends with, and one message; anything else is a fault of ours, with a traceback and 1."""

USER_ERRORS: tuple[type[Exception], ...] = (UserError, EvalError)
"""What no retry can mend, because a person has to."""

EXIT_CODE_OF_VERDICT = {"promote": EXIT_DONE, "reject": EXIT_REJECTED, "inconclusive": EXIT_INCONCLUSIVE}
