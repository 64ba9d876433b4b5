"""Stage `dataset`: pictures and captions, checked, with their original bytes."""

from __future__ import annotations

from pathlib import Path

from sdxl_core.config import DatasetConfig
from sdxl_core.data.fingerprint import dataset_fingerprint
from sdxl_core.errors import UserError
from tasks.manifest import Json
from tasks.stage import Call, Job, Stage


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.data.prepare import prepare_dataset

    dataset = DatasetConfig.model_validate(job.local["dataset"])
    summary = prepare_dataset(dataset, job.out, job.progress)
    if dataset_fingerprint(dataset, job.store.digest_file.many) != job.params["source"]:
        raise UserError(f"dataset {Path(dataset.path).name}: it changed while it was read; run again")
    return summary


STAGE = Stage(kind="dataset", version="1", build=_build, heavy=False)

_LATER = ("label_column", "pair_columns", "max_pairs", "skip_pairs")
"""Settings younger than the stage: in the key only where they are set, so that what was made before them is found."""


def prepare(dataset: DatasetConfig, fingerprint: str, label: str = "dataset") -> Call:
    """`fingerprint` is what the source holds; where it lies does not matter, nor how it comes over the network."""
    settings = dataset.model_dump(mode="json", exclude={"path", "validation_path", "stream", "drawn"})
    for name in _LATER:
        if getattr(dataset, name) == DatasetConfig.model_fields[name].default:
            del settings[name]
    if dataset.masks not in (None, "alpha"):
        settings["masks"] = "folder"
    local = {"dataset": dataset.model_dump(mode="json")}
    return Call(STAGE, label, {"dataset": settings, "source": fingerprint}, local=local)
