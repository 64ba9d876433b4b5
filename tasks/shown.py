"""What Prefect's page shows of a run: its stages, scores and report.

A thread of its own sends it, so that no stage waits for a server; and if the server does not answer, the run goes on
without its page. Texts that others wrote (labels, places, what a stage found) are escaped.
"""

from __future__ import annotations

import html
import json
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tasks.manifest import Json, Manifest, Ref
from tasks.published import report_url
from tasks.runs import report_files, score_rows
from tasks.stage import Call, Handle, Runner
from tasks.store import ArtifactStore

if TYPE_CHECKING:
    from prefect.client.schemas.actions import ArtifactCreate

_LOG = logging.getLogger("sdxl_flows")
REQUEST_S = 3.0
"""How long one request may take."""
LAST_WORDS_S = 5.0
"""How long a run waits at its end for what is not sent yet."""
_LONGEST = 200
_Make = Callable[[], "ArtifactCreate"]


class Board:
    """A flow run's artifacts in Prefect; everything here returns at once."""

    def __init__(self, store: ArtifactStore, name: str) -> None:
        from prefect.context import FlowRunContext

        context = FlowRunContext.get()
        run = context.flow_run if context is not None else None
        self._store, self._name = store, name
        self._flow_run: UUID | None = run.id if run is not None else None
        self._queue: queue.SimpleQueue[_Make | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=copy_context().run, args=(self._send_all,), daemon=True, name="board")
        self._thread.start()

    def watching(self, run: Runner) -> Runner:
        """A runner that shows every stage that another has run."""

        def watched(call: Call) -> Handle:
            started = time.time()
            handle = run(call)
            if isinstance(handle, Ref):
                self._queue.put(lambda: self._stage(call.label, handle, started))
            return handle

        return watched

    def report(self, report: Ref, place: Path) -> None:
        """The report's summary with a link to its page, and its scores."""

        def summary() -> ArtifactCreate:
            text, _ = report_files(self._store, report)
            url = report_url(place)
            where = f"[{text_cell(self._name)}]({url})" if url is not None else code(str(place))
            page = f"{text}\n\nreport: {where}\n"
            return self._made("markdown", f"report-{self._name}", f"Report {self._name}", page)

        def scores() -> ArtifactCreate:
            rows = score_rows(report_files(self._store, report)[1])
            return self._table(f"scores-{self._name}", f"Base against candidate, {self._name}", rows)

        self._queue.put(summary)
        self._queue.put(scores)
        if (url := report_url(place)) is not None:
            link = f"[report {text_cell(self._name)}]({url})"
            self._queue.put(lambda: self._made("markdown", f"page-{self._name}", "The report's page", link))

    def table(self, key: str, description: str, rows: Sequence[Mapping[str, Json]]) -> None:
        """Rows of JSON values."""
        self._queue.put(lambda: self._table(key, description, rows))

    def close(self) -> None:
        """Wait a little for what is not sent yet."""
        self._queue.put(None)
        self._thread.join(LAST_WORDS_S)
        if self._thread.is_alive():
            _LOG.warning("Prefect's server is slow: not all of this run's stages are on its page")

    def _stage(self, label: str, ref: Ref, started: float) -> ArtifactCreate:
        manifest = self._store.manifest(ref.kind, ref.key)
        assert manifest is not None, f"{ref} is gone"
        text = stage_page(manifest, self._store.path(ref), built=_created(manifest) >= started)
        return self._made("markdown", f"stage-{self._name}-{label}", label, text)

    def _table(self, key: str, description: str, rows: Sequence[Mapping[str, Json]]) -> ArtifactCreate:
        return self._made("table", key, description, json.dumps(list(rows)))

    def _made(self, kind: str, key: str, description: str, data: str) -> ArtifactCreate:
        from prefect.client.schemas.actions import ArtifactCreate

        return ArtifactCreate(
            type=kind, key=artifact_key(key), description=description, data=data, flow_run_id=self._flow_run
        )

    def _send_all(self) -> None:
        """Until there is nothing more to come, or nobody to take it."""
        from httpx import TransportError
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        patience = get_client(sync_client=True, httpx_settings={"timeout": REQUEST_S})
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), patience as client:
            level = logging.WARNING
            while (make := self._queue.get()) is not None:
                try:
                    client.create_artifact(make())
                except TransportError as error:
                    _LOG.warning("Prefect's server does not answer; its page will not show the rest (%r)", error)
                    return
                except Exception as error:  # the page is a courtesy: whatever is wrong with it, the run is worth more
                    _LOG.log(level, "not shown on the page of Prefect's server: %r", error)
                    level = logging.DEBUG  # what is wrong with one is mostly wrong with all


@contextmanager
def board(store: ArtifactStore, name: str) -> Iterator[Board]:
    """`name`: the run's, which begins the keys of its artifacts."""
    shown = Board(store, name)
    try:
        yield shown
    finally:
        shown.close()


def stage_page(manifest: Manifest, place: Path, *, built: bool) -> str:
    """Markdown of one artifact: what it is, whether it was built now, what was found, and where it lies."""
    seconds = f"{manifest.seconds:.1f} s"
    how = f"built in {seconds}" if built else f"reused; it took {seconds} on {manifest.created[:10]}"
    rows = {
        "artifact": code(str(manifest.ref)),
        "content": code(manifest.digest),
        "size": f"{manifest.total_bytes:,} bytes",
        "place": code(str(place)),
        **{text_cell(name): _value(value) for name, value in manifest.summary.items() if _is_small(value)},
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"**{how}**\n\n| | |\n|---|---|\n{table}\n"


def artifact_key(text: str) -> str:
    """Prefect takes lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def text_cell(text: str) -> str:
    """Text of others as a Markdown table shows it: neither markup nor HTML."""
    plain = " ".join(text.split())
    short = plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", html.escape(short, quote=False))


def code(text: str) -> str:
    """A place or digest, to be copied."""
    plain = " ".join(text.replace("`", "'").split())
    return f"`{plain.replace('|', chr(92) + '|')}`"


def _value(value: Json) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else text_cell(str(value))


def _is_small(value: Json) -> bool:
    return isinstance(value, int | float | str) and value != ""


def _created(manifest: Manifest) -> float:
    return datetime.fromisoformat(manifest.created).timestamp()
