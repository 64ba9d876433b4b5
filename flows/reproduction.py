"""The command that makes a report again; it stands in the report."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.config import PipelineConfig

_NAMING = ("evaluation.candidate", "evaluation.candidates")


def made_by(
    path: Path,
    overrides: Sequence[str],
    config: PipelineConfig,
    given: Sequence[str],
    override: Sequence[str],
    verb: str | None = None,
) -> str:
    """The same for all commands that come to the same report.

    `given`: by --candidate. `verb`: the command, if it is neither `run` nor `evaluate`.
    """
    from tasks.references import names_trained

    place, evaluation = os.path.relpath(path), config.evaluation
    named = [reference.replace(f"{Path.cwd()}/", "./") for reference in evaluation.references]
    kept = [change for change in overrides if change.partition("=")[0] not in _NAMING]
    trains = names_trained(evaluation.references)
    words = [verb or ("run" if trains else "evaluate"), place]
    if evaluation.candidates:
        in_file = not given and len(kept) == len(overrides)
        words += [] if in_file else ["--set", f"evaluation.candidates={json.dumps(named)}"]
    elif not trains:
        words += ["--candidate", named[0]]
    elif named != ["trained"]:
        words += ["--set", f"evaluation.candidate={named[0]}"]
    words += [word for change in kept for word in ("--set", change)]
    words += [word for key in override for word in ("--override", key)]
    return shlex.join(["sdxl-flows", *words])
