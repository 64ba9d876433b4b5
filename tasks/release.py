"""Stage `release`: what is shipped of a judged training: weights, model card, reports, and where it all comes from."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass

from sdxl_core.export_config import ExportConfig
from tasks.finished import finished_of
from tasks.manifest import Json, Ref
from tasks.provenance import provenance
from tasks.push import Upload, write_model_folder
from tasks.report import REPORT_FILE
from tasks.stage import Call, Job, Stage

AGAINST = "against-incumbent"
"""Folder of the report against what was in production; and that report's name among the inputs."""
LINEAGE_FILE = "lineage.json"
_REPORT_FILES = (REPORT_FILE, "report.json", "summary.md", "scores.parquet")


@dataclass(frozen=True)
class Judged:
    """A training with its reports."""

    refs: dict[str, Ref]
    """Of the run that trained it and held it against the base, by label."""
    against: Ref | None
    """The report that holds it against what was in production."""


def _build(job: Job) -> dict[str, Json]:
    refs = {label: Ref.model_validate(ref) for label, ref in job.local["refs"].items()}
    finished = finished_of(job.store, job.params["name"], refs)
    write_model_folder(job.store, finished, Upload(job.params["name"], job.params["repository"]), job.out)
    for name, folder in (("report", job.out), (AGAINST, job.out / AGAINST)):
        if name in job.inputs:
            folder.mkdir(exist_ok=True)
            for file in _REPORT_FILES:
                shutil.copyfile(job.inputs[name] / file, folder / file)
    roots = [Ref.model_validate(ref) for ref in job.local["reports"]]
    (job.out / LINEAGE_FILE).write_text(json.dumps(provenance(job.store, roots), indent=1), encoding="utf-8")
    return {"training": str(refs["train"])}


STAGE = Stage(kind="release", version="1", build=_build, heavy=False)


def release(name: str, repository: str | None, said: ExportConfig, judged: Judged) -> Call:
    """`repository`: where it will be on the hub, for the model card; None: nowhere."""
    named = {label: judged.refs[label] for label in ("train", "report", "images/base", "images/candidate")}
    inputs = {label.rpartition("/")[2]: ref for label, ref in named.items()}
    if judged.against is not None:
        inputs[AGAINST] = judged.against
    params = {"name": name, "repository": repository or name, "said": said.model_dump(mode="json")}
    refs = {label: ref.model_dump() for label, ref in named.items()}
    return Call(STAGE, "release", params, dict(inputs), {"refs": refs, "reports": _reports(judged)})


def _reports(judged: Judged) -> list[Json]:
    reports = [judged.refs["report"], *([judged.against] if judged.against else [])]
    return [ref.model_dump() for ref in reports]
