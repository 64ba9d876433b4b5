"""Where training runs live in the store, and which one a name stands for.

trainings/<key>/           bundles, validation pictures and logs of one run; stays when it is finished, so that the run
                           can be made longer, until collection
trainings/names/<name>.json   the last training started under an experiment's name

A training's key covers what decides its weights after any step. So a changed setting never meets another run's bundles;
but it would start at step 0 without a word, which is why a name with an unfinished training refuses one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdxl_core.bundles import newest_bundle, require_whole, steps_of
from sdxl_core.errors import UserError
from sdxl_core.overrides import check_override, refuse_changes
from sdxl_core.train_job import Ancestor
from sdxl_core.training_config import TrainingConfig
from tasks.digests import digest_json
from tasks.errors import ConfigError
from tasks.manifest import Frozen, Json
from tasks.store import ArtifactStore


class Resume(Frozen):
    """How a run deals with trainings that there are. By default an interrupted one goes on, if nothing changed."""

    override: tuple[str, ...] = ()
    """Settings to go on with although they changed, such as `training.learning_rate`."""
    from_bundle: Path | None = None
    """Go on from this bundle instead of the newest; with `override`."""
    fresh: bool = False
    """Leave an unfinished training with other settings, or one without a whole bundle, and start at step 0."""


class TrainingRecord(Frozen):
    """The last training that was started under a name."""

    key: str
    settings: dict[str, Json]
    finished: bool
    ancestor: Ancestor | None = None


def training_key(settings: Mapping[str, Json], ancestor: Ancestor | None) -> str:
    """32 hex digits: the same for runs that have the same weights after the same number of steps."""
    return digest_json({"settings": settings, "ancestor": ancestor.digest if ancestor else None})[:32]


def training_path(store: ArtifactStore, key: str) -> Path:
    return store.root / "trainings" / key


def read_record(store: ArtifactStore, name: str) -> TrainingRecord | None:
    """A record that does not read counts as none."""
    try:
        return TrainingRecord.model_validate_json(_record_path(store, name).read_bytes())
    except (OSError, ValidationError):
        return None


def write_record(store: ArtifactStore, name: str, record: TrainingRecord) -> None:
    path = _record_path(store, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8")
    os.replace(temporary, path)


def refuse_another(store: ArtifactStore, name: str, settings: Mapping[str, Json]) -> None:
    """Raises UserError when the name has an unfinished training with other settings, listing each, old -> new.

    `settings` may be a part of them: what is known so far.
    """
    record = read_record(store, name)
    if record is None or record.finished:
        return
    earlier = {section: record.settings.get(section) for section in settings}
    refuse_changes(earlier, settings, (), f"the unfinished training {name!r}")
    if record.ancestor is not None:
        raise UserError(
            f"the unfinished training {name!r} went on from step {record.ancestor.step} of another; give --override or "
            "--from-bundle as before to go on with it, or start anew with --fresh"
        )


def find_ancestor(store: ArtifactStore, name: str, training: TrainingConfig, resume: Resume) -> Ancestor | None:
    """The bundle of an earlier training that a run with overridden settings goes on from.

    Raises:
        UserError: a setting cannot be overridden, or there is no whole bundle to go on from.
    """
    check_override(resume.override)
    if resume.from_bundle is not None:
        require_whole(resume.from_bundle)
        return Ancestor.of(resume.from_bundle)
    if not resume.override:
        return None
    record = read_record(store, name)
    if record is None:
        raise ConfigError(f"--override: there is no training {name!r} to go on from; run it without")
    if record.settings.get("training") == training.lasting:
        return record.ancestor  # the overridden run itself, interrupted
    newest = newest_bundle(training_path(store, record.key) / "bundles", training.max_steps, _ignore)
    if newest is None:
        raise ConfigError(
            f"--override: the training {name!r} has no bundle of at most {training.max_steps} steps to go on from"
        )
    return Ancestor.of(newest)


def training_records(store: ArtifactStore) -> Iterator[tuple[str, TrainingRecord]]:
    """The last training of every name."""
    for path in sorted((store.root / "trainings" / "names").glob("*.json")):
        record = read_record(store, path.stem)
        if record is not None:
            yield path.stem, record


def bundles_of(store: ArtifactStore, record: TrainingRecord) -> list[tuple[int, Path]]:
    """Steps and places of a training's bundles, whole or not."""
    return steps_of(training_path(store, record.key) / "bundles")


def kept_keys(store: ArtifactStore) -> set[str]:
    """Keys of the trainings that names stand for, and of those they go on from."""
    records = [record for _, record in training_records(store)]
    ancestors = [record.ancestor for record in records if record.ancestor is not None]
    return {record.key for record in records} | {ancestor.path.parent.parent.name for ancestor in ancestors}


def _record_path(store: ArtifactStore, name: str) -> Path:
    return store.root / "trainings" / "names" / f"{name}.json"


def _ignore(message: Any) -> None:
    """The trainer names damaged bundles when it meets them."""
