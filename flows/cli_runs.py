"""The commands that run or plan the pipeline."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import console
from flows.cli_prepared import Prepared, carry_out, check
from flows.reproduction import made_by

if TYPE_CHECKING:
    from flows.cli_prepared import Wiring
    from tasks.trainings import Resume

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, such as those in configs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting, such as training.learning_rate=5e-5. Repeatable."
    ),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--override",
        metavar="KEY",
        help="Go on with the last training of this name although this setting changed. Repeatable.",
    ),
]
FromBundle = Annotated[Path | None, typer.Option(help="Go on from this bundle instead of the newest.")]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Start at step 0 although a training of this name with other settings is unfinished."),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse to run if a metric's weights or packages are missing; else it is left out."),
]
Candidates = Annotated[
    list[str] | None,
    typer.Option(
        "--candidate",
        metavar="MODEL",
        help="Judge this instead of what CONFIG trains: base, a LoRA, a sum of LoRAs with scales, a checkpoint, a "
        "bundle, a hub id, train/KEY, a run's name, a step of a training, or a folder of pictures. Repeatable: several "
        "are judged side by side.",
    ),
]


def run(
    config: ConfigFile,
    overrides: Overrides = None,
    override: Override = None,
    from_bundle: FromBundle = None,
    fresh: Fresh = False,
    strict: Strict = False,
) -> None:
    """Run the whole pipeline: dataset to report. What is there already is reused.

    Killed or interrupted, it goes on from where it was when you run it again; with a changed setting, it refuses to,
    unless you say how. More `training.max_steps` than before run the new steps only. Ends with `report: PATH`.

    Exit codes: 0 done, and passed if there are gates; 3 rejected by a gate, 4 inconclusive; 2 something you have to
    change, 75 stopped by SIGTERM after saving, 1 anything else.

    Examples: `sdxl-flows run configs/miniature/dreambooth.yaml`,
    `sdxl-flows run configs/miniature/dreambooth.yaml --set training.learning_rate=5e-4 --set training.max_steps=200`,
    `sdxl-flows run my.yaml --set training.learning_rate=5e-5 --override training.learning_rate`
    """
    from tasks.experiment import require_candidate_trained
    from tasks.train import refuse_unfinished
    from tasks.trainings import Resume

    bundle = from_bundle.resolve() if from_bundle else None
    resume = Resume(override=tuple(override or ()), from_bundle=bundle, fresh=fresh)
    prepared = prepare(config, strictly(overrides, strict), resume=resume, trains=True)
    experiment = prepared.experiment
    require_candidate_trained(experiment.config)
    if any(stage.label == "train" and stage.action == "run" for stage in prepared.planner.stages):
        assert experiment.lesson is not None
        refuse_unfinished(
            prepared.store, experiment.lesson.continuing, {"training": experiment.config.training.lasting}
        )

    def start() -> dict[str, Any]:
        from flows.finetune import finetune

        return finetune(experiment.config, resume=resume, command=experiment.command)

    carry_out(prepared, start)


def plan(config: ConfigFile, candidate: Candidates = None, overrides: Overrides = None, strict: Strict = False) -> None:
    """Say what `run` would do: each stage reused or run, and which input changed since the nearest earlier result.

    With --candidate, what `evaluate` would do.

    Examples: `sdxl-flows plan configs/miniature/dreambooth.yaml --set training.adapter.rank=16`,
    `sdxl-flows plan configs/miniature/dreambooth.yaml --candidate dog.safetensors:0.8`
    """
    stages = prepare(
        config, strictly(overrides, strict), candidates=candidate or (), trains=not candidate
    ).planner.stages
    console.table([(stage.label, stage.action, stage.why) for stage in stages])
    count = sum(stage.action == "run" for stage in stages)
    console.out(f"{len(stages) - count} reused, {count} to run")


def evaluate(
    config: ConfigFile, candidate: Candidates = None, overrides: Overrides = None, strict: Strict = False
) -> None:
    """Draw and judge base and candidate again, training nothing: for new prompts, metrics or seeds, or another model.

    With `evaluation.gates`, ends with 0 for promote, 3 for reject and 4 for inconclusive.

    Examples: `sdxl-flows evaluate configs/miniature/dreambooth.yaml --set evaluation.replicates=4`,
    `sdxl-flows evaluate configs/sdxl/dreambooth.yaml --candidate "dog.safetensors:0.8 + style.safetensors:0.5"`
    """
    from flows.wiring import LEARNT

    prepared = prepare(config, strictly(overrides, strict), LEARNT, candidate or ())

    def start() -> dict[str, Any]:
        from flows.evaluate import evaluate

        return evaluate(prepared.experiment.config, command=prepared.experiment.command)

    carry_out(prepared, start)


def report(config: ConfigFile, overrides: Overrides = None) -> None:
    """Make statistics and report again from the scores that are there.

    Example: `sdxl-flows report configs/miniature/dreambooth.yaml --set evaluation.confidence=0.99`
    """
    from flows.wiring import SCORED

    prepared = prepare(config, overrides, SCORED)

    def start() -> dict[str, Any]:
        from flows.report import report

        return report(prepared.experiment.config, command=prepared.experiment.command)

    carry_out(prepared, start)


def strictly(overrides: list[str] | None, strict: bool) -> list[str]:
    return [*(overrides or []), *(["evaluation.strict=true"] if strict else [])]


def prepare(
    path: Path,
    overrides: list[str] | None,
    expecting: Collection[str] = (),
    candidates: Sequence[str] = (),
    resume: Resume | None = None,
    trains: bool = False,
    wiring: Wiring | None = None,
) -> Prepared:
    """A configuration's file, read and checked as `check` does.

    `trains`: it is prepared for `run`, unless it judges nothing that it would train. `wiring`: of what will run, if it
    is neither `run` nor `evaluate`.
    """
    from flows.wiring import evaluate, finetune
    from tasks.references import as_local, names_trained
    from tasks.yaml_config import read_config

    config = read_config(path, overrides or [], [as_local(reference) for reference in candidates])
    command = made_by(path, overrides or [], config, candidates, resume.override if resume else ())
    usual = finetune if trains and names_trained(config.evaluation.references) else evaluate
    return check(config, command, wiring or usual, expecting, resume)
