"""Run a command so that none of its descendants outlives whoever started it.

    python -m tasks.supervise GRACE_S [--hold FD ...] [--orphans S] -- COMMAND ...

The supervisor stops the command when its standard input ends, which the kernel sees to however the parent dies, or on
SIGTERM, SIGINT or SIGHUP: first politely, and after GRACE_S seconds by SIGKILL. On Linux it adopts all descendants
(`PR_SET_CHILD_SUBREAPER`), those in sessions of their own included, such as the ranks of torchrun, and ends when the
last is gone; elsewhere it reaches the command's own process group only.

Exit code: the command's, 128 + signal if a signal ended it, 143 if it was stopped.
Descriptors named by `--hold` are handed on to the command: locks that must stay held while it lives.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

STOPPED = 143
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LINUX = sys.platform == "linux"
_POLL_S = 0.1
_ORPHANS_GRACE_S = 1.0
"""How long descendants may outlive a command that ended by itself, unless `--orphans` says otherwise."""


class Supervisor:
    """One command and all its descendants."""

    def __init__(self, command: Sequence[str], grace_s: float, orphans_s: float, held: Sequence[int]) -> None:
        self._grace_s, self._orphans_s = grace_s, orphans_s
        self._stop_asked = False
        self._code: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        prctl = _prctl()
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=held,
            # should the supervisor itself be killed, the kernel asks the command to stop
            preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )

    def run(self) -> int:
        """Wait for the end, of the command or of the parent; returns the exit code."""
        while self._code is None and not self._stop_asked:
            self._reap()
            if _parent_gone(_POLL_S):  # not `|=`: a signal that comes during the call would be lost
                self._stop_asked = True
        stopped = self._code is None
        if stopped:
            self._signal_group(signal.SIGTERM)
        self._wait_all_gone(self._grace_s if stopped else self._orphans_s)
        while not self._reap():
            self._signal_group(signal.SIGKILL)
            for pid in _descendants(os.getpid()):
                _kill(pid)
            time.sleep(_POLL_S)
        if stopped or self._code is None:
            return STOPPED
        return self._code if self._code >= 0 else 128 - self._code

    def _reap(self) -> bool:
        """Collect whoever has ended; True once no descendant is left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return False
                if pid == self._child.pid:
                    self._code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            return True

    def _wait_all_gone(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._reap() and time.monotonic() < end:
            time.sleep(_POLL_S / 2)

    def _signal_group(self, number: int) -> None:
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            return

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop_asked = True


def _prctl() -> Callable[[int, int], int]:
    """`prctl` of the C library, looked up before any fork; elsewhere than on Linux it does nothing."""
    if not _LINUX:
        return lambda option, value: 0
    function = ctypes.CDLL(None).prctl
    return lambda option, value: int(function(option, value, 0, 0, 0))


def _parent_gone(wait_s: float) -> bool:
    """Whether standard input has ended within the wait."""
    ready, _, _ = select.select([0], [], [], wait_s)
    return bool(ready) and not os.read(0, 4096)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat") if _LINUX else ():
        try:
            parent = int(entry.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found, unseen = [], [root]
    while unseen:
        below = children.get(unseen.pop(), [])
        found += below
        unseen += below
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tasks.supervise")
    parser.add_argument("grace_s", type=float)
    parser.add_argument("--orphans", type=float, default=_ORPHANS_GRACE_S)
    parser.add_argument("--hold", type=int, action="append", default=[])
    parser.add_argument("command", nargs="+")
    chosen = parser.parse_args(arguments)
    return Supervisor(chosen.command, chosen.grace_s, chosen.orphans, chosen.hold).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
