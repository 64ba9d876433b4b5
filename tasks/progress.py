"""How far a stage is: on the console, and in Prefect where it runs under it."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import Protocol

_LOG = logging.getLogger("sdxl_flows")
LOG_EVERY_S = 10.0
PUBLISH_EVERY_S = 5.0


class Progress(Protocol):
    """Called by stages with how many of their items are done; `note` is a figure worth seeing, such as the loss."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


Sink = tuple[Progress, Callable[[str], None]]
"""Where progress is shown: a stage's figures, and what it waits for before it can begin."""


class StageProgress:
    """What a stage shows of itself."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._waits = False

    def __call__(self, done: int, total: int, note: str = "") -> None:
        for show, _ in self._sinks:
            show(done, total, note)

    def waiting(self, text: str) -> None:
        """What the stage waits for; empty when that is over, or never was."""
        if text or self._waits:
            for _, tell in self._sinks:
                tell(text)
        self._waits = bool(text)


class Meter:
    """Rate and time left. Counts from its first reading, so what a resumed stage finds done is not taken for speed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start: tuple[int, float] | None = None

    def read(self, done: int, total: int) -> tuple[float, float | None]:
        """-> items per second (0 while unknown), and seconds left or None while unknown."""
        now = self._clock()
        if self._start is None or done < self._start[0]:
            self._start = (done, now)
        first, since = self._start
        rate = (done - first) / (now - since) if now > since else 0.0
        return rate, (total - done) / rate if rate > 0 else None


def describe(label: str, done: int, total: int, rate: float, left_s: float | None, note: str) -> str:
    """`latents 120/400 · 12/s · 23 s left · loss 0.031`"""
    speed = "" if not rate else f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"
    left = "" if left_s is None else f"{_duration(left_s)} left"
    return " · ".join(part for part in (f"{label} {done}/{total}", speed, left, note) if part)


@contextmanager
def stage_progress(label: str, *, publish: bool) -> Iterator[StageProgress]:
    """Progress of one stage, shown on the console and, if `publish`, as a Prefect progress artifact."""
    with ExitStack() as stack:
        alone = threading.current_thread() is threading.main_thread()  # bars of several threads would overwrite
        sinks = [stack.enter_context(_bar(label) if alone and sys.stderr.isatty() else _lines(label))]
        if publish:
            sinks.append(stack.enter_context(_published(label)))
        yield StageProgress(sinks)


@contextmanager
def _lines(label: str) -> Iterator[Sink]:
    """A log line every ten seconds, for files and pipes. What is waited for is in the log anyway."""
    meter, last = Meter(), time.monotonic()

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last
        rate, left_s = meter.read(done, total)
        if time.monotonic() - last >= LOG_EVERY_S:
            last = time.monotonic()
            _LOG.info(describe(label, done, total, rate, left_s, note))

    yield report, lambda text: None


@contextmanager
def _bar(label: str) -> Iterator[Sink]:
    """A live line on a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as shown:
        bar, meter = shown.add_task(label, total=None), Meter()

        def report(done: int, total: int, note: str = "") -> None:
            text = describe(label, done, total, *meter.read(done, total), note)
            shown.update(bar, completed=done, total=total, description=text)

        yield report, lambda text: shown.update(bar, description=escape(_with_wait(label, text)))


@contextmanager
def _published(label: str) -> Iterator[Sink]:
    """A Prefect progress artifact, written by a thread of its own: no slow or absent server holds up a stage."""
    meter = Meter()
    latest: list[tuple[float, str]] = [(0.0, label)]
    news, stop = threading.Event(), threading.Event()

    def publish() -> None:
        told, shown = latest[0], False
        while True:
            news.wait()
            news.clear()
            last = stop.is_set()
            if (not shown and not last) or latest[0] != told:
                told, shown = latest[0], True
                _publish(label, *told)
            if last:
                return
            stop.wait(PUBLISH_EVERY_S)

    threading.Thread(target=copy_context().run, args=(publish,), daemon=True, name=f"progress of {label}").start()

    def report(done: int, total: int, note: str = "") -> None:
        text = describe(label, done, total, *meter.read(done, total), note)
        latest[:] = [(100 * done / max(total, 1), text)]
        news.set()

    def waiting(text: str) -> None:
        latest[:] = [(latest[0][0], _with_wait(label, text))]
        news.set()

    try:
        yield report, waiting
    finally:
        stop.set()
        news.set()


def _with_wait(label: str, text: str) -> str:
    return f"{label}: {text}" if text else label


_published_as: dict[tuple[object, str], object] = {}
"""By flow run and stage: the artifact, which a stage that is tried again goes on with."""


def _publish(label: str, percent: float, text: str) -> None:
    """Create or update the artifact, if the server can be reached."""
    from prefect.artifacts import create_progress_artifact, update_progress_artifact
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    which = (context.flow_run.id if context is not None and context.flow_run is not None else None, label)
    key = "progress-" + label.replace("/", "-").replace("_", "-")
    try:
        if which in _published_as:
            update_progress_artifact(_published_as[which], progress=percent, description=text)  # type: ignore[arg-type]
        else:
            _published_as[which] = create_progress_artifact(progress=percent, key=key, description=text)
    except Exception as error:
        # The figure is a courtesy and the server another machine's business; the log keeps the reason.
        _LOG.debug("progress of %s not published: %s", label, error)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
