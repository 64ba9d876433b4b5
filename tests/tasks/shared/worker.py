"""A machine that wants a chain of artifacts from a shared store, and reads every one: `python -m ... ROOT URL LOG`.

It prints one JSON object: the refs by label. In the log it notes what it has built, a line each.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path

from tasks.manifest import Json, Ref
from tasks.shared import files
from tasks.stage import Call, Job, Stage, materialise
from tasks.store import ArtifactStore, StorePlace

STAGES = 12
_FILES = 6
_BYTES = 3000


def content(label: str, number: int) -> bytes:
    return (f"{label} {number} ".encode() * _BYTES)[:_BYTES]


def build(log: Path, job: Job) -> dict[str, Json]:
    label = job.params["label"]
    cells = job.store.cells("toys")
    for number in range(_FILES):
        time.sleep(0.02)
        cells[f"{job.params['number'] * _FILES + number:032x}"] = content(label, number)
        (job.out / f"{number}.bin").write_bytes(content(label, number))
    for name, folder in job.inputs.items():
        read(folder, name)
    with log.open("a") as stream:
        stream.write(f"{label}\n")
    return {}


def read(folder: Path, label: str) -> None:
    """Every byte, which has to be what was written."""
    for number in range(_FILES):
        assert (folder / f"{number}.bin").read_bytes() == content(label, number), f"torn: {label}"


def main(root: str, url: str, log: str) -> None:
    files.PART_BYTES = 1000
    store = ArtifactStore.at(StorePlace(root, "auto", url))
    stage = Stage(kind="toy", version="1", build=partial(build, Path(log)), heavy=False)
    refs: dict[str, Ref] = {}
    for number in range(STAGES):
        label = f"toy-{number}"
        inputs = {before: refs[before] for before in (f"toy-{number - 1}", f"toy-{number - 2}") if before in refs}
        refs[label] = materialise(Call(stage, label, {"label": label, "number": number}, dict(inputs)), store, "cpu")
        read(store.path(refs[label]), label)
    print(json.dumps({label: ref.digest for label, ref in refs.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
