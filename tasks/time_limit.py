"""An end to what would go on for too long."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.errors import StageTimedOut


class _Rung(BaseException):
    """Time is up. Not an `Exception`, nor a `TimeoutError`, which is an `OSError`: what handles a file that does not
    read must not take it for one."""


@contextmanager
def time_limit(seconds: float | None, label: str, setting: str) -> Iterator[None]:
    """Interrupt the block when its time is up, wherever it is; without `seconds` it may take as long as it takes.

    On the way out whatever runs is stopped and saved as for any other reason. For the main thread alone, where flows
    call their stages.

    Raises:
        StageTimedOut: it was; `setting` says where the limit comes from.
    """
    if seconds is None:
        yield
        return
    assert threading.current_thread() is threading.main_thread(), f"{label}: a limit needs the main thread"
    before = signal.signal(signal.SIGALRM, _ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    except _Rung:
        raise StageTimedOut(time_is_up(label, seconds, setting)) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def time_is_up(label: str, seconds: float, setting: str) -> str:
    """For who reads that it was interrupted."""
    message = f"{label}: stopped after {seconds / 3600:g} h, the limit that {setting} sets; run the same command "
    return f"{message}again to go on from what is saved, with a higher limit if need be"


def _ring(number: int, frame: object) -> None:
    raise _Rung
