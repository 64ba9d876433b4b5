"""`sdxl-flows artifacts`: look at the store, check it, and clear it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console
from flows.groups import group

if TYPE_CHECKING:
    from tasks.store import ArtifactStore
    from tasks.verify import Found

app = group("Look at the artifact store, check it, and clear it.")

Store = Annotated[
    str | None,
    typer.Option("--store", help="The store's folder or URL; default: SDXL_FLOWS_STORE, else .sdxl-flows here."),
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
def verify(
    what: Annotated[
        str | None,
        typer.Argument(metavar="WHAT", help="A run's name, `kind/key`, or the place of a report.html or report.json."),
    ] = None,
    store: Store = None,
) -> None:
    """Recompute what results are known by: of the whole store, or of one lineage with its sources.

    Without WHAT: the SHA-256 of every file of every artifact, and every key. With WHAT: those of all that it was made
    from, each against what others say that it holds; a report's own account of it; the copies in runs/; and whether
    pictures, prompts and weights are still what they were where the run's configuration names them. Nothing is
    downloaded for that.

    What is damaged is set aside, and built again by the next run that needs it; nothing else is changed. Exit codes:
    0 all that is there is what it was; 1 something is damaged or contradicts another; 2 WHAT is nothing. What `gc` took
    is only gone, and a source may have changed since: neither is 1.

    Examples: `sdxl-flows artifacts verify`, `sdxl-flows artifacts verify kestrel`,
    `sdxl-flows artifacts verify runs/kestrel/report.html`
    """
    opened = open_store(store)
    if what is not None:
        _verify_lineage(opened, what)
        return
    from tasks.damage import damage_of_all

    found = list(damage_of_all(opened))
    for kind, key, damage in found:
        opened.set_aside(kind, key, damage)
    console.out("all artifacts are whole" if not found else f"{len(found)} damaged")
    if found:
        raise typer.Exit(1)


def _verify_lineage(store: ArtifactStore, what: str) -> None:
    # read when the hub's library is first imported: what is not in its cache is not there
    os.environ["HF_HUB_OFFLINE"] = "1"
    from tasks.outside import verify_sources
    from tasks.verify import BAD, sources_in, verify_artifacts, verify_published
    from tasks.verify_target import find_target

    target = find_target(store, what)
    sources = sources_in(store, target)
    findings = {
        "artifacts": _shown("artifacts, sources first", verify_artifacts(store, target)),
        "copies": _shown("copies", verify_published(store, target)),
        "sources": _shown("sources", verify_sources(store, sources, target.config, target.home)),
    }
    for found in findings["artifacts"]:
        if found.state == "damaged" and found.artifact is not None:
            store.set_aside(*found.artifact, found.why)
    counts = {what: Counter(found.state for found in some) for what, some in findings.items()}
    words = {what: ", ".join(f"{number} {state}" for state, number in some.items()) for what, some in counts.items()}
    console.out("; ".join(f"{what}: {said or 'none'}" for what, said in words.items()))
    if any(some[state] for some in counts.values() for state in BAD):
        raise typer.Exit(1)


def _shown(title: str, findings: Iterable[Found]) -> list[Found]:
    """The findings, each printed as it comes: reading every byte may take long."""
    console.out(title)
    seen = []
    for found in findings:
        console.out(f"  {found.state:13}  {found.name}{f': {found.why}' if found.why else ''}")
        seen.append(found)
    return seen


@app.command("gc")
def gc(
    keep_runs: Annotated[int, typer.Option(min=0, help="Runs to keep of every name, with all they reach.")] = 3,
    keep_versions: Annotated[
        int, typer.Option(min=0, help="Of every model, so many that were in production, and so many that were not.")
    ] = 3,
    min_age_hours: Annotated[float, typer.Option(min=0, help="Keep everything younger.")] = 24,
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; without this, only say what would go.")] = False,
    store: Store = None,
) -> None:
    """Clear what neither a recent run nor a kept version reaches. Removing anything only costs its recomputation.

    Example: `sdxl-flows artifacts gc --keep-runs 1 --apply`
    """
    from tasks.gc import Retention, collect, find_garbage

    opened = open_store(store)
    garbage = find_garbage(opened, Retention(runs=keep_runs, versions=keep_versions, min_age_h=min_age_hours))
    for manifest in garbage.artifacts:
        console.out(f"{manifest.recipe.kind}/{manifest.key[:12]}  {manifest.label}")
    for path in garbage.leftovers:
        console.out(f"left over: {path.relative_to(opened.root)}")
    if garbage.shared is not None:
        for manifest in garbage.shared.artifacts:
            console.out(f"shared: {manifest.recipe.kind}/{manifest.key[:12]}  {manifest.label}")
        counts = Counter(kind for kind, _ in garbage.shared.rows())
        console.out(f"shared: {', '.join(f'{count} {kind}' for kind, count in sorted(counts.items())) or 'nothing'}")
    console.out(
        f"{len(garbage.artifacts)} artifacts, {len(garbage.leftovers)} left over, {len(garbage.cells)} old cells"
    )
    if apply:
        console.out(f"freed {console.size(collect(opened, garbage))}")
    else:
        console.out(f"would free {console.size(garbage.total_bytes)}; --apply does it")


def open_store(named: str | None) -> ArtifactStore:
    """Raises ConfigError where there is none: commands that only look make none."""
    from tasks.errors import ConfigError
    from tasks.store import named_store, store_root, store_url

    root = store_root(named)
    if store_url(named) is None and not root.is_dir():
        raise ConfigError(f"there is no store at {root}; name one by --store or SDXL_FLOWS_STORE")
    return named_store(named)
