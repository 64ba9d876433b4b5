"""What runs leave outside the artifacts: a record that keeps their artifacts from collection, and files for people."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from tasks.manifest import Frozen, Json, Manifest, Ref
from tasks.stage import Call, Handle, Runner
from tasks.store import ArtifactStore

PUBLISHED: dict[str, tuple[str, ...]] = {
    "report": ("report.html", "report.json", "summary.md", "scores.parquet"),
    "matrix": ("report.html", "report.json", "summary.md", "scores.parquet"),  # scores are each candidate's own
    "train": ("pytorch_lora_weights.safetensors", "kohya_lora.safetensors", "peft", "unet", "steps"),
}
"""Of every kind of artifact, what of it is copied for people, if it is there."""

REPORTS = ("report", "matrix")
"""Kinds of artifacts that are reports."""
_READ_AT_ONCE = 256
"""Records of a shared store."""


class RunRecord(Frozen):
    """One finished run."""

    name: str
    command: str
    finished: str
    refs: dict[str, Ref]
    """By label, all that the run made or reused."""


class Recorder:
    """A runner that remembers what another gave, by label."""

    def __init__(self, run: Runner) -> None:
        self._run = run
        self.refs: dict[str, Ref] = {}

    def __call__(self, call: Call) -> Handle:
        handle = self._run(call)
        if isinstance(handle, Ref):
            self.refs[call.label] = handle
        return handle


def finish_run(store: ArtifactStore, name: str, command: str, refs: Mapping[str, Ref]) -> Path:
    """Note a finished run and copy its report and adapter to `./runs/<name>/`; returns the report's place there."""
    record_run(store, name, command, refs)
    return publish(store, refs, Path.cwd() / "runs" / name)


def record_run(store: ArtifactStore, name: str, command: str, refs: Mapping[str, Ref]) -> None:
    """Write down a finished run; garbage collection keeps what the last few of every name reach.

    Raises:
        StoreAway: the store is shared, and cannot be reached.
    """
    finished = datetime.now(UTC).isoformat(timespec="microseconds")
    record = RunRecord(name=name, command=command, finished=finished, refs=dict(refs))
    place, text = f"runs/{name}/{finished.replace(':', '')}.json", record.model_dump_json(indent=1)
    if store.objects is not None:
        if not store.objects.create(place, text.encode()):  # another machine's of the very moment
            record_run(store, name, command, refs)
        return
    path = store.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_runs(store: ArtifactStore) -> Iterator[RunRecord]:
    """All records, in a shared store those of all machines; newest first. A record that does not read counts as none.

    Raises:
        StoreAway: the store is shared, and cannot be reached.
    """
    for data in _run_records(store):
        try:
            yield RunRecord.model_validate_json(data)
        except ValidationError:
            continue


def _run_records(store: ArtifactStore) -> Iterator[bytes]:
    """Newest first; by their names, since those of files say when each run ended."""
    if store.objects is None:
        found = (store.root / "runs").glob("*/*.json")
        yield from (path.read_bytes() for path in sorted(found, key=lambda path: path.name, reverse=True))
        return
    from tasks.shared.memo import Memo

    memo = Memo(store.objects, store.root)
    names = [name for name in store.objects.sizes("runs") if name.endswith(".json")]
    names.sort(key=lambda name: name.rpartition("/")[2], reverse=True)
    for start in range(0, len(names), _READ_AT_ONCE):
        yield from memo.read_all(names[start : start + _READ_AT_ONCE]).values()


def publish(store: ArtifactStore, refs: Mapping[str, Ref], folder: Path) -> Path:
    """Copy reports and weights to where people look for them; returns the report's place there.

    Of an earlier run's nothing stays that this one's have not.
    """
    placed = publications(refs)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*/report.html"):
        files = {path.name for path in leftover.parent.iterdir()}
        ours = files <= {*PUBLISHED["report"]} and not leftover.parent.is_symlink()
        if ours and leftover.parent.name not in placed.values():
            shutil.rmtree(leftover.parent)
    for ref, below in placed.items():
        for name in PUBLISHED[ref.kind]:
            target = folder / below / name
            if (store.path(ref) / name).exists():
                target.parent.mkdir(exist_ok=True)
                _copy(store.path(ref) / name, target)
            else:
                _remove(target)
    return folder / "report.html"


def publications(refs: Mapping[str, Ref]) -> dict[Ref, str]:
    """Of a run's artifacts those that are copied for people -> folder below the run's, empty for its own.

    A report labelled `report/NAME` comes into the folder NAME, and the selection's into `selection`. Of a sweep's
    trainings, `train/NAME`, nothing is copied: they may be many and large, and `export train/KEY` writes any of them.
    """
    return {
        ref: label.removeprefix("report").lstrip("/") if ref.kind in REPORTS else ""
        for label, ref in refs.items()
        if ref.kind in PUBLISHED and not label.startswith("train/")
    }


def published_files(manifest: Manifest) -> list[str]:
    """Those of an artifact's files that `publish` copies."""
    copied = PUBLISHED.get(manifest.recipe.kind, ())
    return [name for name in manifest.files if name.partition("/")[0] in copied]


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """A file or folder, put into its place when it is all there."""
    staging = target.with_name(f".{target.name}")
    if source.is_file():
        shutil.copyfile(source, staging)
    else:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(source, staging)
        shutil.rmtree(target, ignore_errors=True)
    os.replace(staging, target)


def report_files(store: ArtifactStore, report: Ref) -> tuple[str, dict[str, Json]]:
    """-> summary.md and report.json of a report artifact."""
    place = store.path(report)
    text = (place / "summary.md").read_text(encoding="utf-8")
    return text, json.loads((place / "report.json").read_text(encoding="utf-8"))


def verdict_of(store: ArtifactStore, refs: Mapping[str, Ref]) -> str | None:
    """Of a run's report; none without gates."""
    verdict: str | None = store.summary(refs["report"])["verdict"]
    return verdict


def score_rows(report: Mapping[str, Json]) -> list[dict[str, Json]]:
    """One row per judged metric, and candidate where there are several, of JSON values, from a report.json."""
    if "comparison" in report:
        return _score_rows(report["comparison"])
    return [
        {"model": one["name"], **row}
        for one in report["candidates"]
        for row in _score_rows(report["comparisons"][one["slug"]])
    ]


def _score_rows(comparison: Mapping[str, Json]) -> list[dict[str, Json]]:
    rows = []
    for judged in comparison["judged"]:
        interval = judged["delta_interval"] or {}
        rows.append(
            {
                "metric": judged["facts"]["title"],
                "primary": judged["primary"],
                "base": judged["base_mean"],
                "candidate": judged["candidate_mean"],
                "difference": judged["delta"],
                "from": interval.get("low"),
                "to": interval.get("high"),
                "win rate": judged["win_rate"],
                "outcome": judged["outcome"],
            }
        )
    return rows
