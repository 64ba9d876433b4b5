"""What `artifacts verify WHAT` means: a run, an artifact, or a report where it was published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.stated import Stated, StatedLineage
from sdxl_core.disk import file_sha256
from sdxl_core.errors import did_you_mean
from tasks.errors import ConfigError
from tasks.manifest import Json, Manifest, Ref
from tasks.provenance import stated_ref
from tasks.report import REPORT_FILE
from tasks.runs import REPORTS, RunRecord, publications, read_runs
from tasks.store import ArtifactStore
from tasks.yaml_config import parse_yaml

DOCUMENT = "report.json"
_NAME = re.compile(r"([a-z_]+)/([0-9a-f]{1,32})")


@dataclass(frozen=True)
class Target:
    roots: Mapping[str, Ref]
    """By label."""
    rooted_in: str = ""
    """Who says what the roots hold; empty: nobody but they themselves."""
    stated: Sequence[Stated] = ()
    """What the report says that it was made from."""
    items: Sequence[Json] = ()
    """Its `StatedLineage.items`."""
    stated_in: str = DOCUMENT
    published: Path | None = None
    """Folder of files for people."""
    published_from: Mapping[Ref, str] = field(default_factory=dict)
    """Artifact -> folder below `published` in which its copies are."""
    unknown: Path | None = None
    """A file of which no artifact is known that it could be a copy of."""
    config: Mapping[str, Json] | None = None
    """As the report shows it; None where no report tells it."""
    home: Path = Path()
    """The folder that the configuration's relative paths are relative to."""


def find_target(store: ArtifactStore, what: str) -> Target:
    """`what`: a run's name, for its newest; `kind/key`; or the place of a report.html or report.json.

    Raises:
        ConfigError: there is no such thing.
    """
    path = Path(what).expanduser()
    if path.suffix in (".html", ".json") or path.is_file():
        return _published(store, path.absolute())
    if "/" in what:
        return _artifact(store, what)
    run = next((run for run in read_runs(store) if run.name == what), None)
    if run is None:
        names = sorted({run.name for run in read_runs(store)})
        fix = did_you_mean(what, names) or f"There are: {', '.join(names) or 'none'}."
        expected = "the name of a finished run, kind/key or the place of a report.html or report.json"
        raise ConfigError.about(what, expected=expected, got="none of it", fix=fix)
    return _run(store, run)


def _run(store: ArtifactStore, run: RunRecord) -> Target:
    place = Path.cwd() / "runs" / run.name
    report = _manifest(store, run.refs.get("report"))
    stated = _statement(store.path(report.ref) / DOCUMENT) if report else None
    return Target(
        roots=run.refs,
        rooted_in="the run's record",
        stated=stated.artifacts if stated else (),
        items=stated.items if stated else (),
        published=place if place.is_dir() else None,
        published_from=publications(run.refs),
        config=report.recipe.params["config"] if report else None,
        home=Path.cwd(),
    )


def _artifact(store: ArtifactStore, what: str) -> Target:
    name = _NAME.fullmatch(what)
    found = [place for place in store.places() if place[0] == name[1] and place[1].startswith(name[2])] if name else []
    if len(found) != 1:
        got = "no artifact" if not found else f"{len(found)} artifacts"
        raise ConfigError(f"{what}: expected the beginning of one artifact's name, got {got}; see `artifacts ls`")
    ref = Ref(kind=found[0][0], key=found[0][1], digest="")
    told_by = ref if ref.kind in REPORTS else _report_of(store, ref)
    report = _manifest(store, told_by)
    stated = _statement(store.path(ref) / DOCUMENT) if ref.kind in REPORTS else None
    return Target(
        roots={ref.kind: ref},
        stated=stated.artifacts if stated else (),
        items=stated.items if stated else (),
        config=report.recipe.params["config"] if report else None,
        home=Path.cwd(),
    )


def _report_of(store: ArtifactStore, ref: Ref) -> Ref | None:
    """The newest report of a run that made or reused the artifact."""
    reached = (run for run in read_runs(store) if "report" in run.refs and _among(ref, run.refs.values()))
    return next((run.refs["report"] for run in reached), None)


def _among(ref: Ref, refs: Iterable[Ref]) -> bool:
    return any((ref.kind, ref.key) == (one.kind, one.key) for one in refs)


def _published(store: ArtifactStore, path: Path) -> Target:
    if path.name not in (REPORT_FILE, DOCUMENT) or not path.is_file():
        got = "another file" if path.is_file() else "no such file"
        raise ConfigError.about(str(path), expected=f"a run's {REPORT_FILE} or {DOCUMENT}", got=got)
    folder = path.parent
    document = _read(folder / DOCUMENT)
    stated = _statement(folder / DOCUMENT)
    report = _identified(store, path, document, stated)
    if report is None and stated is None:
        raise ConfigError(f"{path}: expected a report of {store.root}, or one that states its lineage, got neither")
    copied = {report.ref: ""} if report else {}
    run = next((run for run in read_runs(store) if report and run.refs.get("report") == report.ref), None)
    above = next((parent.parent for parent in folder.parents if parent.name == "runs"), None)
    return Target(
        roots={"report": report.ref} if report else {},
        stated=stated.artifacts if stated else (),
        items=stated.items if stated else (),
        published=folder,
        unknown=path if report is None else None,
        published_from=publications(run.refs) if run else copied,
        config=report.recipe.params["config"] if report else _shown_config(document),
        home=Path.cwd() if above is None else above,
    )


def _identified(
    store: ArtifactStore, path: Path, document: Mapping[str, Json], stated: StatedLineage | None
) -> Manifest | None:
    """The report that the file is a copy of; one that was changed is known by its title and what it was made from."""
    reports = [one for kind in REPORTS for one in store.manifests(kind)][::-1]
    sha256 = file_sha256(path)
    same = (one for one in reports if path.name in one.files and one.files[path.name].sha256 == sha256)
    made_from = {stated_ref(one) for one in stated.artifacts} if stated else set()
    alike = (
        one
        for one in reports
        if one.recipe.params["title"] == document.get("title") and set(one.recipe.inputs.values()) <= made_from
    )
    return next(same, None) or next(alike, None)


def _manifest(store: ArtifactStore, ref: Ref | None) -> Manifest | None:
    return None if ref is None else next((one for one in store.manifests(ref.kind) if one.key == ref.key), None)


def _statement(document: Path) -> StatedLineage | None:
    """What a report.json states of its lineage; None where there is none, or of another version."""
    try:
        return StatedLineage.model_validate(_read(document).get("provenance"))
    except ValueError:
        return None


def _read(document: Path) -> dict[str, Json]:
    """Empty where there is no such file, or none that reads as a mapping."""
    try:
        found = json.loads(document.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _shown_config(document: Mapping[str, Json]) -> Mapping[str, Json] | None:
    try:
        found = parse_yaml(str(document.get("config")), DOCUMENT)
    except ConfigError:
        return None
    return found if isinstance(found, dict) else None
