"""`sdxl-flows models`: what is in production, how it came to be so, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console
from flows.cli_artifacts import Store, open_store
from flows.groups import group

if TYPE_CHECKING:
    from tasks.pulling import Pulled
    from tasks.registry import Registry
    from tasks.versions import Version

app = group("Models that `retrain` keeps: what is in production, how it came to be so, and the way back.")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="As `models ls` lists it.")]
Reason = Annotated[str, typer.Option(help="Stands in the history.")]


@app.command("ls")
def ls(store: Store = None) -> None:
    """List the models, each with what it has in production.

    Example: `sdxl-flows models ls`
    """
    registry = _open(store)
    rows = []
    for name in registry.names():
        current = registry.production(name)
        count = f"{len(registry.versions(name))} versions"
        rows.append((name, "nothing in production" if current is None else f"version {current.number}", count))
    console.table(rows)
    console.out(f"{len(rows)} models in {registry.place}")


@app.command("show")
def show(model: Model, store: Store = None) -> None:
    """Show a model's versions: when and against what each was judged, what came of it, where it lies.

    Example: `sdxl-flows models show kestrel`
    """
    registry = _open(store)
    current, versions = registry.production(model), registry.versions(model)
    if not versions:
        registry.require(model)
    rows = []
    for version in versions:
        mark = "in production" if current is not None and version.number == current.number else ""
        if registry.store.find_whole(version.release.kind, version.release.key) is None:
            mark = f"{mark} (cleared)".strip()
        against = "against the base" if version.against is None else f"against base and version {version.against}"
        place = registry.at(model, version.number)
        rows.append((f"version {version.number}", version.made_at[:19], version.verdict, against, mark, place))
    console.table(rows)
    console.out(registry.at(model))


@app.command("history")
def history(model: Model, store: Store = None) -> None:
    """Show everything that happened to a model, oldest first.

    Example: `sdxl-flows models history kestrel`
    """
    registry = _open(store)
    events = registry.history(model)
    if not events:
        registry.require(model)
    rows = [(e.at[:19], e.what, "" if e.version is None else f"version {e.version}", e.reason, e.by) for e in events]
    console.table(rows)


@app.command("rollback")
def rollback(
    model: Model,
    to: Annotated[int | None, typer.Option(help="This version; default: what was in production before.")] = None,
    reason: Reason = "",
    store: Store = None,
) -> None:
    """Put an earlier version back into production. The one that was there stays, and is not promoted again by itself.

    Its release is read whole and checked first. Consumers see the link move in one step; the hub's tag, if the model
    was uploaded, follows.

    Examples: `sdxl-flows models rollback kestrel --reason "hands"`, `sdxl-flows models rollback kestrel --to 3`
    """
    registry = _open(store)
    current = registry.require(model)
    target = registry.earlier(model, current) if to is None else registry.version(model, to)
    _move(registry, model, current, target, "rolled back", reason)


@app.command("promote")
def promote(
    model: Model,
    version: Annotated[int, typer.Argument(help="As `models show` numbers them.")],
    reason: Annotated[str, typer.Option(help="Why it is right although no gate said so; stands in the history.")],
    store: Store = None,
) -> None:
    """Put a version into production by hand, such as one that was inconclusive and convinced people.

    Example: `sdxl-flows models promote kestrel 4 --reason "chosen by the art director, votes 31 of 40"`
    """
    registry = _open(store)
    _move(registry, model, registry.production(model), registry.version(model, version), "promoted", reason)


@app.command("push")
def push(
    model: Model,
    repo: Annotated[str, typer.Option(metavar="USER/NAME", help="Repository on the hub; made if it is not there.")],
    public: Annotated[bool, typer.Option("--public", help="Make it a public one, if it is made.")] = False,
    store: Store = None,
) -> None:
    """Upload what is in production to the Hugging Face hub and move the tag `production` there.

    `retraining.hub` does so after every promotion. The token is that of `hf auth login` or HF_TOKEN.

    Example: `sdxl-flows models push kestrel --repo me/kestrel`
    """
    from tasks.announcing import push_version

    registry = _open(store)
    console.out(push_version(registry, model, registry.require(model), repo, not public))


@app.command("watch")
def watch(
    model: Model,
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Look every so many seconds.")] = 1.0,
    store: Store = None,
) -> None:
    """Print a line of JSON for what is in production, and another each time that changes. Never ends by itself.

    Example: `sdxl-flows models watch kestrel | while read -r line; do ./deploy.sh "$line"; done`
    """
    from tasks.pulling import Pulled

    registry = _open(store)
    registry.versions(model)  # what no model can be called is said at once

    def look() -> Pulled | None:
        current = registry.production(model)
        return None if current is None else Pulled(model, current, registry.store.path(current.release))

    _follow(look, every_s)


@app.command("pull")
def pull(
    model: Model,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Made if it is not there.")],
    every_s: Annotated[
        float | None, typer.Option("--every", min=0.1, help="Go on for ever, looking every so many seconds.")
    ] = None,
    store: Store = None,
) -> None:
    """Bring what is in production to this machine, and keep it up to date: for programs that use the model.

    FOLDER/production is a link that is set in one step, when all files of the release are in FOLDER/versions and are
    what was written. Prints a line of JSON for what is in production, with `--every` another each time that changes.
    The folder is the program's own: it stays whatever is cleared or moved in the store.

    Examples: `sdxl-flows models pull kestrel --to /srv/kestrel`,
    `sdxl-flows models pull kestrel --to /srv/kestrel --every 30 --store s3://studio/sdxl`
    """
    from tasks.pulling import pull_production

    registry = _open(store)
    done = pull_production(registry, model, to)
    console.out(done.told())
    if every_s is not None:
        _follow(lambda: pull_production(registry, model, to), every_s, done)


def _follow(look: Callable[[], Pulled | None], every_s: float, last: Pulled | None = None) -> None:
    """Tell what is in production each time that it is another. Never ends: a store that is away may be back."""
    import logging
    import time

    from tasks.errors import StoreAway

    while True:
        try:
            found = look()
            if found is not None and (last is None or found.version.number != last.version.number):
                console.out(found.told())
                last = found
        except StoreAway as error:
            logging.getLogger("sdxl_flows").warning("%s; looking again", error)
        time.sleep(every_s)


def _move(registry: Registry, model: str, current: Version | None, target: Version, what: str, reason: str) -> None:
    from tasks.announcing import tell_by_hand
    from tasks.errors import ConfigError
    from tasks.history import MOVES
    from tasks.versions import Moved

    number = None if current is None else current.number
    if number == target.number:
        raise ConfigError(f"{model}: version {number} is in production already")
    [move] = [each for each in MOVES if each == what]
    try:
        registry.point(model, target.number, move, expected=number, reason=reason)
    except Moved as moved:
        raise ConfigError(f"{moved}; nothing was changed: look again, and decide") from None
    console.out(
        f"{model}: version {target.number} is in production{'' if number is None else f', instead of {number}'}"
    )
    for line in tell_by_hand(registry, model, target):
        console.out(line)


def _open(store: Store) -> Registry:
    from tasks.registry import Registry

    return Registry(open_store(store))
