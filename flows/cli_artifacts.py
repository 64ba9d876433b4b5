"""`sdxl-flows artifacts`: look at the store, check it, and clear it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console
from flows.groups import group

if TYPE_CHECKING:
    from tasks.store import ArtifactStore

app = group("Look at the artifact store, check it, and clear it.")

Store = Annotated[
    Path | None, typer.Option("--store", help="The store's folder; default: SDXL_FLOWS_STORE, else .sdxl-flows here.")
]
Named = Annotated[str, typer.Argument(metavar="ARTIFACT", help="`kind/key`; the key's beginning is enough.")]


@app.command("ls")
def ls(
    kind: Annotated[str, typer.Argument(help="Only this kind: dataset, latents, train, images ...")] = "*",
    store: Store = None,
) -> None:
    """List the artifacts, oldest first: place, label, age, size, seconds it took.

    Example: `sdxl-flows artifacts ls train`
    """
    manifests = list(open_store(store).manifests(kind))
    rows = [
        (f"{m.recipe.kind}/{m.key[:12]}", m.label, m.created[:19], console.size(m.total_bytes), f"{m.seconds:.0f} s")
        for m in manifests
    ]
    console.table(rows)
    console.out(f"{len(rows)} artifacts, {console.size(sum(m.total_bytes for m in manifests))}")


@app.command("show")
def show(artifact: Named, store: Store = None) -> None:
    """Show one artifact: what it was made from, back to the sources, and what it holds.

    Example: `sdxl-flows artifacts show report/1f3a`
    """
    from tasks.lineage import find_artifact, lineage

    opened = open_store(store)
    manifest = find_artifact(opened, artifact)
    console.out(manifest.model_dump_json(indent=2, exclude={"files"}))
    console.out("\nfiles")
    console.table([(f"  {name}", console.size(file.bytes), file.sha256[:12]) for name, file in manifest.files.items()])
    console.out("\nmade from, sources first")
    made_from = lineage(opened, [manifest.ref])
    console.table([(f"  {m.label}", f"{m.recipe.kind}/{m.key[:12]}", f"content {m.digest[:12]}") for m in made_from])
    console.out(f"\n{opened.path(manifest.ref)}")


@app.command("trainings")
def trainings(store: Store = None) -> None:
    """List the last training of every name: finished or not, and the bundles that can be gone on from.

    Example: `sdxl-flows artifacts trainings`, then `sdxl-flows run my.yaml --from-bundle .../step-00000500`
    """
    from tasks.trainings import bundles_of, training_path, training_records

    opened = open_store(store)
    found = list(training_records(opened))
    for name, record in found:
        steps = ", ".join(str(step) for step, _ in bundles_of(opened, record)) or "none"
        console.out(f"{name}: {'finished' if record.finished else 'unfinished'}; bundles of steps {steps}")
        console.out(f"  {training_path(opened, record.key)}")
    console.out(f"{len(found)} trainings")


@app.command("verify")
def verify(store: Store = None) -> None:
    """Read every file of every artifact and compare its SHA-256. Exit code 1 if anything is damaged.

    What is damaged is set aside, and built again by the next run that needs it.
    """
    from tasks.store import damage_of_all

    opened = open_store(store)
    found = list(damage_of_all(opened))
    for kind, key, damage in found:
        opened.set_aside(kind, key, damage)
    console.out("all artifacts are whole" if not found else f"{len(found)} damaged")
    if found:
        raise typer.Exit(1)


@app.command("gc")
def gc(
    keep_runs: Annotated[int, typer.Option(min=0, help="Runs to keep of every name, with all they reach.")] = 3,
    min_age_hours: Annotated[float, typer.Option(min=0, help="Keep everything younger.")] = 24,
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; without this, only say what would go.")] = False,
    store: Store = None,
) -> None:
    """Clear what no recent run reaches. Removing anything only costs its recomputation.

    Example: `sdxl-flows artifacts gc --keep-runs 1 --apply`
    """
    from tasks.gc import Retention, collect, find_garbage

    opened = open_store(store)
    garbage = find_garbage(opened, Retention(runs=keep_runs, min_age_h=min_age_hours))
    for manifest in garbage.artifacts:
        console.out(f"{manifest.recipe.kind}/{manifest.key[:12]}  {manifest.label}")
    for path in garbage.leftovers:
        console.out(f"left over: {path.relative_to(opened.root)}")
    console.out(
        f"{len(garbage.artifacts)} artifacts, {len(garbage.leftovers)} left over, {len(garbage.cells)} old cells"
    )
    if apply:
        console.out(f"freed {console.size(collect(opened, garbage))}")
    else:
        console.out(f"would free {console.size(garbage.total_bytes)}; --apply does it")


def open_store(folder: Path | None) -> ArtifactStore:
    """Raises ConfigError where there is none: commands that only look make none."""
    from tasks.errors import ConfigError
    from tasks.store import ArtifactStore, store_root

    root = store_root(folder)
    if not root.is_dir():
        raise ConfigError(f"there is no store at {root}; name one by --store or SDXL_FLOWS_STORE")
    return ArtifactStore(root)
