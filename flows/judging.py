"""From models to reports: one candidate, several side by side, or the best of several on prompts of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks import additions, bundles, comparison, images, matrix, pictures, report, scores
from tasks.experiment import CANDIDATE, Experiment
from tasks.manifest import Json
from tasks.prompt_sets import PromptSet
from tasks.stage import Handle, Pending, Runner

AnyModel = additions.Model | pictures.GivenPictures


@dataclass(frozen=True)
class Judging:
    """What every way of judging needs."""

    experiment: Experiment
    references: Handle
    """The dataset: what a candidate should have learned."""
    training: Handle | None
    """What the configuration has trained, where one of the models is made of it."""
    run: Runner
    feedback: Handle | None = None
    """Where scorers labelled the pairs that the configuration learns from."""
    sweep: Mapping[str, Json] | None = None
    """Of variants of one training, what was varied; for the report of all."""

    def report(self) -> Handle:
        """As `evaluation` asks for it."""
        candidates = self.experiment.candidates
        if not self.experiment.config.evaluation.candidates:
            return self._one(candidates[CANDIDATE])
        if self.experiment.choosing is None:
            return self._all(candidates)
        return self._best(candidates, self.experiment.choosing)

    def on_choosing_prompts(self) -> Handle:
        """What the candidates show on those prompts that the best is chosen on."""
        assert self.experiment.choosing is not None
        return self._compared(self.experiment.candidates, (self.experiment.choosing,), "selection/")[1]

    def _one(self, candidate: AnyModel | Pending, selection: Handle | None = None) -> Handle:
        """`selection`: of the best of several, where it was chosen."""
        sets: dict[str, Handle] = {}
        found: Handle | None = None
        for drawn in self.experiment.looks:
            sets = {
                "base": self._draw("base", self.experiment.models["base"], drawn),
                CANDIDATE: self._draw(CANDIDATE, candidate, drawn),
            }
            found = self.run(comparison.compare(self.experiment.for_one, self._scored("scores", sets), found))
            if drawn is self.experiment.looks[-1] or self._ends(found):
                break
        assert found is not None
        training = self._training_of(candidate)
        shown = report.Shown(
            found, sets, self.references, training, _name(candidate), feedback=self.feedback, selection=selection
        )
        return self.run(report.build(self.experiment, shown))

    def _all(self, candidates: Mapping[str, AnyModel]) -> Handle:
        """Each has a report of its own, and there is one of all."""
        sets, found = self._compared(candidates, self.experiment.looks)
        for slug, one in candidates.items():
            both = {"base": sets["base"], CANDIDATE: sets[slug]}
            training = self._training_of(one)
            shown = report.Shown(found, both, self.references, training, one.name, feedback=self.feedback, slug=slug)
            self.run(report.build(self.experiment, shown))
        return self.run(matrix.build("report", self.experiment, found, sets, self.sweep))

    def _best(self, candidates: Mapping[str, AnyModel], choosing: PromptSet) -> Handle:
        sets, found = self._compared(candidates, (choosing,), "selection/")
        selection = self.run(matrix.build("selection", self.experiment, found, sets, self.sweep))
        if isinstance(found, Pending):
            return self._one(found, selection)
        return self._one(candidates[self.experiment.chosen(found)], selection)

    def _compared(
        self, candidates: Mapping[str, AnyModel], looks: Sequence[PromptSet], below: str = ""
    ) -> tuple[dict[str, Handle], Handle]:
        """-> image sets, by candidate and the base's, and what they say. `below` begins the stages' labels."""
        sets: dict[str, Handle] = {}
        found: Handle | None = None
        for drawn in looks:
            sets = {role: self._draw(role, one, drawn, below) for role, one in self._with_base(candidates).items()}
            scored = {
                slug: self._scored(f"{below}scores/{slug}", {"base": sets["base"], CANDIDATE: sets[slug]})
                for slug in candidates
            }
            compared = comparison.compare_several(f"{below}comparisons", self.experiment.for_all, scored, found)
            found = self.run(compared)
            if drawn is looks[-1] or self._ends(found):
                break
        assert found is not None
        return sets, found

    def _with_base(self, candidates: Mapping[str, AnyModel]) -> dict[str, AnyModel]:
        return {"base": self.experiment.models["base"], **candidates}

    def _scored(self, label: str, sets: Mapping[str, Handle]) -> Handle:
        evaluation, weights = self.experiment.config.evaluation, self.experiment.metric_weights
        return self.run(scores.score(evaluation, weights, sets, self.references, label))

    def _ends(self, found: Handle) -> bool:
        """Whether there is nothing more to decide, or nothing more that can be planned."""
        return isinstance(found, Pending) or self.experiment.decided(found)

    def _training_of(self, candidate: AnyModel | Pending) -> Handle | None:
        return None if isinstance(candidate, Pending) else additions.training_of(candidate, self.training)

    def _draw(self, role: str, model: AnyModel | Pending, drawn: PromptSet, below: str = "") -> Handle:
        if isinstance(model, Pending):  # nobody knows yet which one it will be
            return Pending(images.STAGE.kind, f"images/{role}")
        return draw(f"{below}images/{role}", model, self.experiment, drawn, self.training, self.run)


def draw(
    label: str, model: AnyModel, experiment: Experiment, drawn: PromptSet, training: Handle | None, run: Runner
) -> Handle:
    """A model's pictures of the prompts, or those that somebody else drew."""
    if isinstance(model, pictures.GivenPictures):
        return run(pictures.take_over(label, model, drawn))
    added = scaled(label.replace("images/", "bundle/"), model, training, run)
    return run(images.generate(label, model.base, added, drawn, experiment.config.sampling))


def scaled(label: str, model: additions.Model, training: Handle | None, run: Runner) -> list[images.Scaled]:
    """What is put into a model's base; a bundle is exported for it, by a stage of this label."""
    added: list[images.Scaled] = []
    for one in model.added:
        source = one.source
        if isinstance(source, additions.BundleFolder):
            added.append((run(bundles.export(label, source.place, source.digest, model.base)), one.scale))
        elif isinstance(source, additions.OwnTraining):
            assert training is not None
            added.append((training, one.scale))
        elif isinstance(source, additions.ExportedStep):
            whole = training if isinstance(source.training, additions.OwnTraining) else source.training
            assert whole is not None
            added.append((images.AtStep(whole, source.step), one.scale))
        else:
            added.append((source, one.scale))
    return added


def _name(candidate: AnyModel | Pending) -> str:
    return "the chosen one" if isinstance(candidate, Pending) else candidate.name
