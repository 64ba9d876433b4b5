"""A sweep: everything that its trainings read once, the trainings, several at once, and one report of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from flows.judging import Judging
from flows.preferences import by_scorers
from flows.wiring import checked, gather, training
from tasks.digests import digest_json
from tasks.errors import TrainerFailed
from tasks.experiment import Experiment
from tasks.locks import held
from tasks.manifest import Ref
from tasks.stage import Call, Handle, Pending, Runner
from tasks.store import say_waiting
from tasks.sweeps.grid import Variant
from tasks.sweeps.order import Checked
from tasks.sweeps.running import Failure, run_together
from tasks.sweeps.search import SearchConfig, Study, Trial
from tasks.sweeps.variants import Prepared, judge, prepare_variants, told

Trained = dict[str, tuple[Variant, Ref]]
"""By the slug that a training is judged under."""


class Shared:
    """Runners of several variants: what they have in common is run once, and what is a variant's own has its name."""

    def __init__(self, run: Runner) -> None:
        self._run = run
        self._known: dict[str, Handle] = {}
        self._labels: set[str] = set()

    def of(self, slug: str) -> Runner:
        """A variant's."""

        def run(call: Call) -> Handle:
            which = _identity(call)
            if which not in self._known:
                label = call.label if call.label not in self._labels else f"{call.label}/{slug}"
                self._labels.add(label)
                self._known[which] = self._run(replace(call, label=label))
            return self._known[which]

        return run


def _identity(call: Call) -> str:
    """Of what comes of a call, also where its inputs are only planned; their labels are each one's own then."""
    inputs = {
        name: handle.label if isinstance(handle, Pending) else str(handle) for name, handle in call.inputs.items()
    }
    return digest_json([call.stage.kind, call.stage.version, dict(call.params), inputs])


@dataclass
class Sweeping:
    """A sweep while it runs, or while it is planned."""

    checked: Checked
    run: Runner
    command: str
    trained: Trained = field(default_factory=dict)
    failed: list[tuple[Variant, Failure]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._shared = Shared(self.run)
        self._slugs: dict[Ref, str] = {}
        self._same: dict[str, str] = {}
        self._feedback: set[Handle | None] = set()
        self.calls: dict[str, Call] = {}
        """Of a plan, the trainings by slug."""

    def ready(self, prepared: Sequence[Prepared]) -> dict[str, Call]:
        """All that the trainings read; returns the trainings, by slug."""
        calls = {}
        for one in prepared:
            slug = one.variant.slug
            run = self._shared.of(slug)
            lessons, pairs = checked(one.experiment, run)
            self._feedback.add(by_scorers(pairs))
            call = training(one.experiment, lessons, pairs, run)
            calls[slug] = replace(call, label=f"{call.label}/{slug}")
        return calls

    def train(self, prepared: Sequence[Prepared]) -> dict[str, Ref | Failure]:
        """By slug. Variants that come to the same training are trained once."""
        calls = self.ready(prepared)
        first = {_identity(call): slug for slug, call in reversed(calls.items())}
        different = {slug: calls[slug] for slug in calls if slug in first.values()}
        done = run_together(different, self.run, self.checked.at_once, self._is_taken)
        outcomes = {slug: done[first[_identity(call)]] for slug, call in calls.items()}
        for one in prepared:
            self.note(one.variant, outcomes[one.variant.slug])
        return outcomes

    def _is_taken(self, call: Call) -> bool:
        """What is there already is nobody's to build, and costs no look at who is at it."""
        store, recipe = self.checked.store, call.recipe()
        return store.find_whole(recipe.kind, recipe.key) is None and store.is_being_built(recipe.kind, recipe.key)

    def note(self, variant: Variant, outcome: Ref | Failure) -> None:
        if isinstance(outcome, Failure):
            if variant not in [one for one, _ in self.failed]:
                self.failed.append((variant, outcome))
        elif outcome not in self._slugs:
            self._slugs[outcome] = slug = f"{len(self.trained) + 1}-{variant.slug}"
            self.trained[slug] = (variant, outcome)
        elif (first := self.trained[self._slugs[outcome]][0]) != variant:
            self._same[variant.name] = f"{variant.name} is the same training as {first.name}."

    def plan(self, prepared: Sequence[Prepared]) -> list[Handle]:
        """What each variant's training is or will be, by a runner that only plans; the report too, if all are there."""
        planned: dict[str, Handle] = {}
        self.calls = calls = self.ready(prepared)
        for call in calls.values():
            planned.setdefault(_identity(call), self.run(call))
        handles = [planned[_identity(calls[one.variant.slug])] for one in prepared]
        for one, handle in zip(prepared, handles, strict=True):
            if isinstance(handle, Ref):
                self.note(one.variant, handle)
        if len(self._slugs) == len(set(handles)):
            self.report()
        return handles

    def report(self) -> Handle:
        """
        Raises:
            TrainerFailed: there is no training to report of.
        """
        if not self.trained:
            reasons = "\n".join(f"{variant.name}: {failure.reason}" for variant, failure in self.failed)
            raise TrainerFailed(f"sweep: none of {len(self.failed)} variants could be trained:\n{reasons}")
        return self.judging(self.trained).report()

    def judging(self, trained: Trained) -> Judging:
        order = self.checked.order
        experiment = judge(order.asked, trained, self.checked.store, self.command, order.search)
        lessons = gather(experiment, self._shared.of("judged"))
        feedback = next(iter(self._feedback)) if len(self._feedback) == 1 else None
        section = told(self.trained, self.failed, [*self.checked.notes, *self._same.values()])
        return Judging(experiment, lessons.pictures, None, self.run, feedback, section)

    def improvement(self, ref: Ref) -> float:
        """Of a training, its mean improvement over the base on the prompts that choose."""
        metric, slug = self.checked.metric, self._slugs[ref]
        judging = self.judging({slug: self.trained[slug]})
        found = judging.on_choosing_prompts()
        assert isinstance(found, Ref)
        delta: float = self.checked.store.summary(found)["candidates"][slug]["delta"][metric]
        return delta * direction_of(judging.experiment, metric)


def direction_of(experiment: Experiment, metric: str) -> int:
    return next(one.direction for one in experiment.config.evaluation.metrics if one.id == metric)


def search(sweeping: Sweeping, asked: SearchConfig) -> None:
    """Propose, train and look, until there are as many trials as are asked for.

    What an earlier search has found is gone through again first: its trainings are in the store.
    """
    checked = sweeping.checked
    key = checked.journal.stem
    with held(checked.store.lock_path("sweep", key), say_waiting("sweep")):
        study = Study(checked.journal, asked, checked.at_once)
        for trial in study.ended()[: asked.trials]:
            if trial.failed:
                sweeping.note(checked.variant_of(trial), Failure(trial.failed))
            else:
                _tried(sweeping, [trial])
        while study.finished < asked.trials:
            trials = study.interrupted()
            while len(trials) < min(checked.at_once, asked.trials - study.finished):
                trials.append(study.propose())
            for trial, outcome in zip(trials, _tried(sweeping, trials), strict=True):
                if isinstance(outcome, Failure):
                    study.tell_failed(trial, outcome.reason)
                else:
                    study.tell(trial, sweeping.improvement(outcome))


def _tried(sweeping: Sweeping, trials: Sequence[Trial]) -> list[Ref | Failure]:
    checked = sweeping.checked
    variants = [checked.variant_of(trial) for trial in trials]
    outcomes = sweeping.train(prepare_variants(checked.order.asked, variants, checked.store))
    return [outcomes[variant.slug] for variant in variants]
