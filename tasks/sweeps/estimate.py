"""How long a sweep's trainings will take, by what earlier ones took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from tasks.manifest import Manifest
from tasks.plan import Planner
from tasks.stage import Call
from tasks.store import ArtifactStore
from tasks.sweeps.order import Checked

_MOST = 5


@dataclass(frozen=True)
class Basis:
    """What an estimate is made by."""

    seconds_per_step: float
    trainings: int
    """Of the same base, of which it is the median."""


def basis_of(store: ArtifactStore, calls: Iterable[Call]) -> Basis | None:
    """Of the newest trainings from the same base; None where there is none. What was resumed counts too little, and
    waiting for a device is in it: it is a guess, and called one."""
    bases = {str(call.params["model"]) for call in calls}
    found = [one for one in store.manifests("train") if str(one.recipe.params.get("model")) in bases][-_MOST:]
    rates = [one.seconds / steps for one in found if (steps := _steps(one)) > 0]
    return Basis(median(rates), len(rates)) if rates else None


def _steps(manifest: Manifest) -> int:
    steps = manifest.recipe.params.get("max_steps")
    return steps if isinstance(steps, int) else 0


def of_sweep(checked: Checked, planner: Planner, calls: Mapping[str, Call]) -> list[str]:
    """What a plan comes to, in lines for people."""
    trainings = {call.label for call in calls.values()}
    to_train = [stage for stage in planner.stages if stage.label in trainings and stage.action == "run"]
    others = [stage for stage in planner.stages if stage.label not in trainings]
    runs = sum(stage.action == "run" for stage in others)
    search = checked.order.search
    lines = [f"prepared once for all: {len(others) - runs} reused, {runs} to run"]
    if search is not None:
        lines.append(f"{search.trials} trainings in all, proposed as results come; above are the ends of their ranges")
        steps = search.trials * max(_steps_of(call) for call in calls.values())
    else:
        lines.append(f"trainings: {len(trainings) - len(to_train)} reused, {len(to_train)} to run")
        labels = {stage.label for stage in to_train}
        steps = sum(_steps_of(call) for call in calls.values() if call.label in labels)
    if steps:
        lines.append(_time(basis_of(checked.store, calls.values()), steps, checked.at_once))
    prompts = len(checked.prepared[0].experiment.looks[-1].prompts)
    models = search.trials if search is not None else len(checked.prepared)
    lines.append(f"then the base and at most {models} candidates draw {prompts} prompts and are judged in one report")
    return lines


def _time(basis: Basis | None, steps: int, at_once: int) -> str:
    beside = f"{at_once} at once" if at_once > 1 else "one after the other"
    if basis is None:
        return f"{steps:,} steps, {beside}; no training of this base yet to tell the time by"
    total = in_words(steps * basis.seconds_per_step / at_once)
    return (
        f"{steps:,} steps, {beside}: about {total} at {basis.seconds_per_step:.3g} s a step, the median of "
        f"{basis.trainings} earlier trainings of this base"
    )


def _steps_of(call: Call) -> int:
    steps = call.params["max_steps"]
    assert isinstance(steps, int)
    return steps


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
