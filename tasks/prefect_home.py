"""Prefect's surroundings for a run on this machine. Importing this imports no Prefect; its settings must come first."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.errors import ConfigError
from tasks.locks import held
from tasks.prefect_server import ServerFailed, TemporaryServer
from tasks.serving.env_file import remove_dead_line

_LOG = logging.getLogger("sdxl_flows")

_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # threads that encode and draw have no flow's context; what they say is on the console
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # a temporary server complains with tracebacks when it is stopped in the middle of its book-keeping
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
}
_serving: list[Path] = []
"""Stores for which a temporary server runs in this process."""
_CHOSEN_BY_USER = ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILE")


def prepare_environment(store_root: Path) -> None:
    """Set what Prefect should find in the environment. What the user has set stays."""
    for name, value in {**_QUIET, **prefect_places(store_root)}.items():
        os.environ.setdefault(name, value)


def prefect_places(store_root: Path) -> dict[str, str]:
    """Where Prefect's database and records lie, by names of settings; the database's is none where the user has one."""
    # records index the store, so they lie with it
    places = {"PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(store_root / "prefect" / "records")}
    chosen = any(name in os.environ for name in _CHOSEN_BY_USER)
    if not chosen and not (Path.home() / ".prefect" / "profiles.toml").exists():
        places["PREFECT_HOME"] = str(store_root / "prefect")
    return places


@contextmanager
def local_prefect(store_root: Path) -> Iterator[None]:
    """Prefect ready for a flow in this process: with the server that is configured, or a temporary one of its own.

    Raises:
        ConfigError: the configured server does not answer, or the temporary one does not start.
    """
    _forget_gone_server()
    prepare_environment(store_root)
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with ExitStack() as stack:
        if url := PREFECT_API_URL.value():
            _require_answer(url)
        else:
            stack.enter_context(temporary_settings({PREFECT_API_URL: _start_server(store_root)}))
            _serving.append(store_root)
            stack.callback(_serving.pop)
        # the heartbeat's thread costs a second at the end of every flow, and nobody watches a run in the foreground
        stack.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
        stack.enter_context(_errors_told_once())
        yield


def has_lasting_server() -> bool:
    """Whether what is told to Prefect now is still there when this process has ended."""
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value()) and not _serving


def _forget_gone_server() -> None:
    """A `serve` that was killed leaves its line in `.env`; a run does without it."""
    if "PREFECT_API_URL" not in os.environ and (url := remove_dead_line(Path.cwd())) is not None:
        _LOG.warning(".env: %s was named by a `sdxl-flows serve` that is gone; its line is removed", url)


def _start_server(store_root: Path) -> str:
    """Start the temporary server, load what a flow needs meanwhile, and return the server's address once it answers."""
    from prefect.settings import (
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
        get_current_settings,
    )

    if not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        raise ConfigError("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE is off: set PREFECT_API_URL to a server that runs")
    timeout = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS
    # temporary servers that migrate one new database at the same time all fail
    with held(store_root / "locks" / "prefect-start.lock", lambda holder: None):
        server = TemporaryServer(get_current_settings().to_environment_variables(exclude_unset=True))
        import prefect.flows
        import prefect.main  # noqa: F401

        try:
            server.wait(timeout.value())
        except ServerFailed as error:
            raise ConfigError(
                f"Prefect's temporary server did not start: {error}; if this machine is busy, run the same command "
                f"again, or set {timeout.name} higher"
            ) from error
    return server.url


def _require_answer(url: str) -> None:
    from prefect.client.orchestration import get_client

    if (problem := get_client(sync_client=True).api_healthcheck()) is not None:
        raise ConfigError(
            f"PREFECT_API_URL: the Prefect server {url} does not answer ({problem}); start it, or unset the variable "
            "(or the profile's setting, or the line in .env): a run then brings a server of its own"
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

    tell_again = leave_errors_to_caller()
    try:
        yield
    finally:
        tell_again()


def leave_errors_to_caller() -> Callable[[], None]:
    """No console of this process shows what a flow's or task's caller is told anyway, until the result is called."""
    from prefect.logging.handlers import PrefectConsoleHandler

    consoles = [handler for handler in logging.root.handlers if isinstance(handler, PrefectConsoleHandler)]
    errors = _Errors()
    for console in consoles:
        console.addFilter(errors)

    def tell_again() -> None:
        for console in consoles:
            console.removeFilter(errors)

    return tell_again
