"""Processes that are kept running, and end with this one however it ends."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

_LOG = logging.getLogger("sdxl_flows")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_LASTING_S = 120.0
"""Who ran this long before it ended is started again at once."""


class Child:
    """A command under `tasks.supervise`: none of its descendants outlives it, nor it this process.

    `log`: where its output goes, None: where this process's own goes. `grace_s`: what it and its descendants have for
    ending, whoever ended it.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], grace_s: float, log: Path | None
    ) -> None:
        self.name, self.log = name, log
        self._command, self._environment, self._grace_s = command, environment, grace_s
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._due = 0.0
        self._wait_s = _FIRST_WAIT_S

    @property
    def supervisor(self) -> int | None:
        """Process id of what the command runs under."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        grace = str(self._grace_s)
        supervised = [sys.executable, "-m", "tasks.supervise", grace, "--orphans", grace, "--", *self._command]
        with ExitStack() as stack:
            output = None if self.log is None else stack.enter_context(self.log.open("ab"))
            self._process = subprocess.Popen(
                supervised,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                env=dict(self._environment),
                start_new_session=True,  # a Ctrl-C is for whoever started us to deal with, in its order
            )
        self._started = time.monotonic()

    def ended(self) -> int | None:
        """The exit code, if it has ended."""
        assert self._process is not None
        return self._process.poll()

    def keep(self) -> bool:
        """Start it again if it has ended, later from time to time; returns whether it was started now."""
        now = time.monotonic()
        if self._due:
            if now < self._due:
                return False
            self._due = 0.0
            self.start()
            return True
        if (code := self.ended()) is not None:
            self._close()
            if now - self._started > _LASTING_S:
                self._wait_s = _FIRST_WAIT_S
            where = "" if self.log is None else f"; its last lines are in {self.log}"
            _LOG.warning("%s ended with code %d%s; starting it again in %.0f s", self.name, code, where, self._wait_s)
            self._due = now + self._wait_s
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        return False

    def stop(self) -> None:
        """End it, politely at first; returns when it is gone with all its descendants."""
        if self._process is None:
            return
        self._close()
        self._process.wait()

    def _close(self) -> None:
        """The end of its standard input is what stops it."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()


def last_lines(log: Path, count: int = 12) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
