"""Reports as runs leave them for people, and the artifacts that they show."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import ConfigError
from tasks.manifest import Json, Manifest
from tasks.store import ArtifactStore

if TYPE_CHECKING:
    from eval.booth import ShownPair

PAGE, FACTS = "report.html", "report.json"
_DRAWN = ("images", "pictures")
"""Kinds of artifacts that are image sets."""
VIEW_URL = "SDXL_FLOWS_VIEW_URL"
"""Environment variable with the address of a page of `view` that shows the runs of this folder."""
_SERVED = frozenset({".html", ".json", ".md", ".parquet", ".png", ".svg", ".webp"})


@dataclass(frozen=True)
class Published:
    """A folder with a report in it."""

    folder: Path
    name: str
    """Of the folder, below that of all runs."""
    title: str
    headline: str
    verdict: str | None
    candidate: str | None
    """Which model was judged; none where the page is of several, each of which has a report of its own."""
    finished: str

    @property
    def id(self) -> str:
        """Stands for it in addresses."""
        return _id(self.name)

    def file(self, name: str) -> Path | None:
        """Of the report's own folder; None where it is none of a report's files, or lies elsewhere."""
        path = (self.folder / name).resolve()
        inside = path.is_relative_to(self.folder.resolve())
        return path if inside and path.suffix in _SERVED and path.is_file() else None


def published_reports(runs: Path) -> list[Published]:
    """All below the folder, the newest first. What is no report is left out."""
    places = [path.parent for path in runs.rglob(FACTS) if (path.parent / PAGE).is_file()]
    found = [one for place in places if (one := _read(place, runs)) is not None]
    return sorted(found, key=lambda one: one.finished, reverse=True)


def _read(folder: Path, runs: Path) -> Published | None:
    try:
        facts: dict[str, Json] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        judged = facts.get("image_sets", {}).get("candidate")
        return Published(
            folder=folder,
            name=folder.relative_to(runs).as_posix(),
            title=str(facts["title"]),
            headline=str(facts["headline"]),
            verdict=None if facts["verdict"] is None else str(facts["verdict"]),
            candidate=None if judged is None else str(judged["name"]),
            finished=datetime.fromtimestamp((folder / FACTS).stat().st_mtime, UTC).isoformat(timespec="seconds"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def report_url(place: Path) -> str | None:
    """Where a browser finds a published report, `place` being its folder or page; `runs` is the working folder's.

    None where no page is there to show it (SDXL_FLOWS_VIEW_URL), or the report is in no folder that it shows.
    """
    page, runs = os.environ.get(VIEW_URL, ""), Path.cwd() / "runs"
    folder = (Path.cwd() / place).parent if place.name == PAGE else Path.cwd() / place
    if not page.startswith(("http://", "https://")) or not folder.is_relative_to(runs):
        return None
    return f"{page.rstrip('/')}/reports/{_id(folder.relative_to(runs).as_posix())}/{PAGE}"


def _id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def made_by(store: ArtifactStore, report: Published) -> Manifest:
    """The report artifact with these very bytes.

    Raises:
        ConfigError: it is not in the store.
    """
    digest = store.digest_file(report.folder / FACTS)
    for manifest in store.manifests("report"):
        if FACTS in manifest.files and manifest.files[FACTS].sha256 == digest:
            return manifest
    fix = "run it again, or name its store by SDXL_FLOWS_STORE or --config"
    place = store.place.url or store.root
    raise ConfigError(f"{report.name}: the artifacts of this report are not in the store {place}; {fix}")


def pairs_of(store: ArtifactStore, made: Manifest) -> list[ShownPair]:
    """What base and candidate drew, side by side.

    Raises:
        ConfigError: an image set is not in the store any more.
        EvalError: it is damaged.
    """
    from eval.booth import shown_pairs

    sets = {role: ref for role, ref in made.recipe.inputs.items() if ref.kind in _DRAWN}
    if missing := [str(ref) for ref in sets.values() if store.find_whole(ref.kind, ref.key) is None]:
        raise ConfigError(f"{made.label}: {', '.join(missing)} is not in the store, whole; `run` it again")
    return shown_pairs(store.path(sets["base"]), store.path(sets["candidate"]))
