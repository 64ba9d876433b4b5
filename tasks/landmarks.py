"""Stage `landmarks`: five points of each picture's face, for `training.consistency.identity_loss`."""

from __future__ import annotations

from pathlib import Path

from tasks.faces import Detector
from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.faces import InsightFace
    from sdxl_core.identity.landmarks import find_landmarks

    return find_landmarks(
        dataset=job.inputs["dataset"],
        load=lambda: InsightFace(Path(job.local["detector"])),
        detector_digest=job.params["detector"],
        out=job.out,
        cells=job.store.cells("landmarks"),
        progress=job.progress,
    )


STAGE = Stage(kind="landmarks", version="1", build=_build, heavy=False)


def find(dataset: Handle, detector: Detector) -> Call:
    """Of the instance pictures."""
    params = {"detector": detector.digest}
    return Call(STAGE, "landmarks", params, {"dataset": dataset}, {"detector": str(detector.folder)})
