"""Prefect's surroundings for a run on this machine. Importing this imports no Prefect; its settings must come first."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.errors import ConfigError
from tasks.locks import held

_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # a temporary server complains with tracebacks when it is stopped in the middle of its book-keeping
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
}
_CHOSEN_BY_USER = ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILE")


def prepare_environment(store_root: Path) -> None:
    """Set what Prefect should find in the environment. What the user has set stays."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    chosen = any(name in os.environ for name in _CHOSEN_BY_USER)
    if not chosen and not (Path.home() / ".prefect" / "profiles.toml").exists():
        os.environ["PREFECT_HOME"] = str(store_root / "prefect")
    # records index the store, so they lie with it
    os.environ.setdefault("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(store_root / "prefect" / "records"))


@contextmanager
def local_prefect(store_root: Path) -> Iterator[None]:
    """Prefect ready for a flow in this process: with the server that is configured, or a temporary one of its own.

    Raises:
        ConfigError: the configured server does not answer, or the temporary one does not start.
    """
    prepare_environment(store_root)
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with ExitStack() as stack:
        if url := PREFECT_API_URL.value():
            _require_answer(url)
        else:
            # temporary servers that migrate one new database at the same time all fail
            with held(store_root / "locks" / "prefect-start.lock", lambda holder: None):
                _start_server()
            stack.enter_context(_stopped_with_us())
        # the heartbeat's thread costs a second at the end of every flow, and nobody watches a run in the foreground
        stack.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
        stack.enter_context(_errors_told_once())
        yield


def _start_server() -> None:
    """The temporary server that Prefect's client brings."""
    from prefect.client.orchestration import get_client

    try:
        get_client(sync_client=True)
    except RuntimeError as error:
        name = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
        raise ConfigError(
            f"Prefect's temporary server did not answer within {os.environ.get(name)} s ({error}); if this machine is "
            f"busy, run the same command again, or set {name} higher"
        ) from error


def _require_answer(url: str) -> None:
    from prefect.client.orchestration import get_client

    if (problem := get_client(sync_client=True).api_healthcheck()) is not None:
        raise ConfigError(
            f"PREFECT_API_URL: the Prefect server {url} does not answer ({problem}); start it, or unset the variable "
            "(or the profile's setting): a run then brings a server of its own"
        )


class _Errors(logging.Filter):
    """Keeps from a console what Prefect says of an exception that the flow's caller gets as well, and tells."""

    PHRASES = ("Finished in state Failed(", "Finished in state Crashed(", "Crash detected!", "Still processing items")

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        told = record.exc_info or any(phrase in message for phrase in self.PHRASES)
        return not (told and record.name.startswith("prefect."))


@contextmanager
def _errors_told_once() -> Iterator[None]:
    """Prefect would print every exception twice with its traceback, mistakes in a configuration as well."""
    import prefect.main  # noqa: F401  # sets logging up, so that the handlers below are those that stay
    from prefect.logging.handlers import PrefectConsoleHandler

    consoles = [handler for handler in logging.root.handlers if isinstance(handler, PrefectConsoleHandler)]
    errors = _Errors()
    for console in consoles:
        console.addFilter(errors)
    try:
        yield
    finally:
        for console in consoles:
            console.removeFilter(errors)


@contextmanager
def _stopped_with_us() -> Iterator[None]:
    """See to it that the temporary server goes even if this process is killed, when Prefect cannot stop it itself."""
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer().server_process
    if server is None:
        yield
        return
    waits = f"import os, sys; sys.stdin.read(); os.kill({server.pid}, 15)"
    watch = subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        watch.kill()
        watch.wait()
