"""`sdxl-flows serve` and `deploy`: runs by name, by schedule, and from a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console

if TYPE_CHECKING:
    from tasks.serving.place import Place

Pool = Annotated[str, typer.Option(metavar="NAME", help="Work pool that runs are taken from.")]
POOL = "sdxl-flows"


def serve(
    host: Annotated[
        str, typer.Option(help="Address the server listens at; others than this machine's need a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The server's.")] = 4200,
    view_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the page that reports are read on.")] = 7860,
    pool: Pool = POOL,
    limit: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Only schedule; workers are elsewhere.")] = False,
    no_view: Annotated[bool, typer.Option("--no-view", help="Without the page of reports.")] = False,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Without a password, although other machines reach --host.")
    ] = False,
) -> None:
    """Serve the deployments of prefect.yaml on this machine: Prefect's server with its UI, a worker, and the page of
    reports, in one process to start and to stop.

    Ctrl-C or SIGTERM ends it all: what runs saves first, and goes on when you serve again. While it serves,
    Prefect's commands in this folder find it by a line in .env.

    Examples: `sdxl-flows serve`, then in another terminal `prefect deployment run finetune/miniature --watch`
    """
    from tasks.serving.place import Place, check_place
    from tasks.serving.service import Service, Stop, Stopped, only_one
    from tasks.store import store_root, store_url

    place = Place(Path.cwd(), store_root(), host, port, None if no_view else view_port, pool, store_url())
    with only_one(place), Stop() as stop:
        check_place(place, no_auth)
        service = Service(place, None if no_worker else limit, stop)
        console.out(f"starting Prefect's server; its lines go to {place.logs / 'server.log'}")
        try:
            service.start()
            _welcome(place)
            service.run()
        except Stopped:
            pass
        finally:
            console.out("stopping; a second Ctrl-C does not wait for runs to save")
            service.end()
    console.out("stopped")


def _welcome(place: Place) -> None:
    rows = [
        ("Prefect's UI", place.page),
        *([("reports", place.view)] if place.view else []),
        ("train and report", "prefect deployment run finetune/miniature --watch"),
        ("retrain if data changed", "prefect deployment run retrain/miniature --watch"),
        ("stop", "Ctrl-C"),
    ]
    console.table([(what, value) for what, value in rows])


def deploy(
    pool: Pool = POOL,
    pool_type: Annotated[
        str, typer.Option(metavar="TYPE", help="process, docker, kubernetes or ecs; of a pool that is not there yet.")
    ] = "process",
    template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file with the pool's base job template.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The project's folder as workers see it; default: this one.")
    ] = None,
    local: Annotated[
        bool,
        typer.Option("--local", help="Workers are on this machine: runs start in this folder with this Python."),
    ] = False,
) -> None:
    """Make work pool, deployments of prefect.yaml and automations on the server that PREFECT_API_URL names, or bring
    them up to date.

    Example: `PREFECT_API_URL=http://server:4200/api sdxl-flows deploy --pool gpu --home /app`
    """
    import json

    from tasks.errors import ConfigError
    from tasks.serving.deploying import POOL_TYPES
    from tasks.serving.deploying import deploy as put

    if pool_type not in POOL_TYPES:
        raise ConfigError(f"--pool-type {pool_type}: expected one of {', '.join(POOL_TYPES)}")
    try:
        given = None if template is None else json.loads(template.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--template {template}: not a JSON file that reads ({error})") from None
    for name in put(home or Path.cwd(), pool, pool_type, given, local):
        console.out(f"automation: {name}")
    console.out(f"deployed to the pool {pool}; `prefect deployment ls` lists them")
