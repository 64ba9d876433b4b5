"""`sdxl-flows view`: a page on this machine with reports, galleries, blind votes and typed prompts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console
from flows.cli_runs import Overrides, prepare

if TYPE_CHECKING:
    from tasks.experiment import Experiment
    from tasks.stage import Call, Runner
    from tasks.store import ArtifactStore
    from tasks.studio import Studio


def view(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="CONFIG", help="Whose base and candidate draw typed prompts.")
    ] = None,
    candidate: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Which model draws against the base; as for `evaluate`.")
    ] = None,
    overrides: Overrides = None,
    runs: Annotated[Path, typer.Option(help="Folder with the runs' reports.")] = Path("runs"),
    votes: Annotated[Path, typer.Option(help="File that votes are added to.")] = Path("votes.jsonl"),
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets in whoever can reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; default: the configuration's runtime.device.")
    ] = None,
) -> None:
    """Show reports and galleries in a browser, and let people vote between base and candidate without knowing whose
    picture is whose. With --config, also on prompts that they type.

    Votes are lines of a file that metric `votes` reads; docs/evaluation/votes.md. Ends with Ctrl-C.

    Examples: `sdxl-flows view`, `sdxl-flows view --config configs/miniature/dreambooth.yaml --votes votes.jsonl`
    """
    from tasks.viewing import Viewing

    store, studio = _opened(config, candidate, overrides, device)
    viewing = Viewing(store, runs.absolute(), votes.absolute(), studio)
    viewing.start()  # a damaged votes file is told here
    with _listening(host, port) as listening:
        from flows.viewer.app import LOCAL, make_app, serve

        is_local = host in LOCAL
        if not is_local:
            console.out(f"whoever reaches {host} sees these pictures and can vote")
        shown = f"[{host}]" if ":" in host else host
        console.out(f"http://{shown}:{listening.getsockname()[1]}")
        serve(make_app(viewing, LOCAL if is_local else ("*",)), listening)


def _opened(
    config: Path | None, candidate: str | None, overrides: list[str] | None, device: str | None
) -> tuple[ArtifactStore, Studio | None]:
    from flows.cli_artifacts import open_store
    from flows.wiring import LEARNT, evaluate
    from tasks.errors import ConfigError
    from tasks.studio import Studio, Watching

    if config is None:
        if candidate or overrides or device:
            raise ConfigError("--candidate, --set and --device are about the models that draw; they go with --config")
        return open_store(None), None
    calls: dict[str, Call] = {}

    def watched(experiment: Experiment, run: Runner) -> None:
        store = experiment.config.runtime.open_store()
        evaluate(experiment, Watching(run, store, calls))

    changes = [*(overrides or []), *([f"runtime.device={device}"] if device else [])]
    prepared = prepare(config, changes, LEARNT, (candidate,) if candidate else (), wiring=watched)
    runtime = prepared.experiment.config.runtime
    return prepared.store, Studio(prepared.experiment.name, calls, prepared.store, runtime.device)


def _listening(host: str, port: int) -> socket.socket:
    """Raises ConfigError where the address cannot be had."""
    from tasks.errors import ConfigError

    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        fix = "Name another --port, or 0 for any that is free"
        raise ConfigError(f"--host {host} --port {port}: cannot listen there ({error.strerror}). {fix}") from None
