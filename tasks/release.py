"""Stage `release`: what is shipped of a judged training: weights, model card, reports, and where it all comes from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from tasks.finished import finished_of
from tasks.manifest import Json, Ref
from tasks.provenance import provenance
from tasks.push import Upload, write_model_folder
from tasks.runs import PUBLISHED
from tasks.stage import Call, Handle, Job, Stage

AGAINST = "against-incumbent"
"""Folder of the report against what was in production; and that report's name among the inputs."""
LINEAGE_FILE = "lineage.json"


def _build(job: Job) -> dict[str, Json]:
    refs = {label: Ref.model_validate(ref) for label, ref in job.local["refs"].items()}
    finished = finished_of(job.store, job.params["name"], refs)
    write_model_folder(job.store, finished, Upload(job.params["name"], job.params["repository"]), job.out)
    _copy_report(job.inputs["report"], job.out)
    if AGAINST in job.inputs:
        _copy_report(job.inputs[AGAINST], job.out / AGAINST)
    roots = [Ref.model_validate(ref) for ref in job.local["reports"]]
    (job.out / LINEAGE_FILE).write_text(json.dumps(provenance(job.store, roots), indent=1), encoding="utf-8")
    return {"training": str(refs["train"])}


STAGE = Stage(kind="release", version="1", build=_build, heavy=False)


def release(name: str, repository: str | None, refs: Mapping[str, Ref], against: Ref | None) -> Call:
    """What is shipped of a training that was judged.

    `repository`: where it will be on the hub, for the model card; None: nowhere. `refs`: of the run that trained it and
    held it against the base, by label. `against`: the report that holds it against what was in production.
    """
    named = {label: refs[label] for label in ("train", "report", "images/base", "images/candidate")}
    inputs: dict[str, Handle] = {label.rpartition("/")[2]: ref for label, ref in named.items()}
    reports = [refs["report"]]
    if against is not None:
        inputs[AGAINST] = against
        reports.append(against)
    params: dict[str, Json] = {"name": name, "repository": repository or name}
    local: dict[str, Json] = {
        "refs": {label: ref.model_dump() for label, ref in named.items()},
        "reports": [ref.model_dump() for ref in reports],
    }
    return Call(STAGE, "release", params, inputs, local)


def _copy_report(report: Path, folder: Path) -> None:
    """All its files; the page may be there already, of which the model card tells."""
    folder.mkdir(exist_ok=True)
    for name in PUBLISHED["report"]:
        if not (folder / name).exists():
            shutil.copyfile(report / name, folder / name)
