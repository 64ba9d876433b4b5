"""Configuration of an evaluation. Importing this imports no torch."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from eval.gate_config import RELATIVE, GateConfig, PositiveInt, SequentialConfig
from eval.scorers import MetricConfig
from eval.scorers.base import Metric
from eval.selection_config import SelectionConfig
from eval.settings import Config

Reference = Annotated[str, Field(pattern=r"\S")]
GallerySize = Annotated[int, Field(ge=0, le=120)]


class GalleryConfig(Config):
    """How many pictures the report shows. Changes the report only, never a score."""

    wins: GallerySize = 12
    """Pairs in which the candidate gains most on the leading metric."""
    losses: GallerySize = 12
    """Pairs in which it loses most."""
    sample: GallerySize = 12
    """Pairs drawn at random, so that the gallery is not only extremes."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of that draw."""
    disagreements: GallerySize = 12
    """Pairs that one scorer finds better and another worse."""
    problems: GallerySize = 24
    """Pairs with a score missing, a prompt cut short, or the candidate on the bad side of a yes or no."""
    nearest: GallerySize = 12
    """Pairs whose candidate picture is nearest to an instance picture, beside that one."""
    rest: Annotated[int, Field(ge=0, le=2000)] = 500
    """All others, up to so many, smaller, to be searched and filtered."""
    rest_side_px: Annotated[int, Field(ge=32, le=1024)] = 192
    references: GallerySize = 12
    """Instance pictures shown for orientation."""
    max_side_px: Annotated[int, Field(ge=32, le=2048)] = 512
    """Larger pictures are scaled down to this side before they go into the page."""


PromptFormatName = Literal["own", "storyboards", "parti", "hpd", "geneval", "t2i_compbench", "dreambooth", "pick_a_pic"]


class PromptSetConfig(Config):
    """A prompt set that is not simply all of a file of our own."""

    path: str
    """File or folder, which begins with ./; or, for parti and pick_a_pic, the id of a hub dataset."""
    format: PromptFormatName | None = None
    """Of known sets, as published. Default: own for .jsonl and .txt, storyboards for .yaml and .json."""
    categories: tuple[str, ...] = ()
    """Only these. Default: all."""
    sample: PositiveInt | None = None
    """Only so many, every category with its share; a larger sample holds a smaller one. Default: all."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of that draw."""
    split: str | None = None
    """Of a hub dataset. Default: train of parti, validation_unique of pick_a_pic."""
    revision: str | None = None
    """Of a hub dataset."""


def _kind_of_prompts(value: Any) -> str:
    return "set" if isinstance(value, dict | PromptSetConfig) else "path"


class EvaluationConfig(Config):
    """Which pictures are compared, by which metrics, and how surely."""

    prompts: Annotated[
        Annotated[str, Tag("path")] | Annotated[PromptSetConfig, Tag("set")], Discriminator(_kind_of_prompts)
    ]
    """Prompt file: `.jsonl` with `prompt` and whatever else docs/evaluation/prompts.md names, `.txt` with one prompt a
    line, or storyboards in `.yaml`. Or a section, for a known set or a part of one."""
    subject: Annotated[str, Field(pattern=r"\S")] | None = None
    """What stands for `{subject}` in templates, with its article: `a sks person`."""
    replicates: Annotated[int, Field(ge=1, le=1000)] = 1
    """Seeds per prompt. The prompt is the unit of inference: more prompts tell more than more seeds."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Base of the pictures' seeds and of the resampling."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Of every interval; 1 - confidence is the false-positive rate of the tests."""
    resamples: Annotated[int, Field(ge=999, le=1_000_000)] = 9999
    """Bootstrap and permutation draws."""
    metrics: Annotated[tuple[MetricConfig, ...], Field(min_length=1)]
    """What is measured. Those marked `primary` decide the verdict, jointly corrected; all others are exploratory."""
    gates: tuple[GateConfig, ...] = ()
    """What the candidate has to show to be promoted. None: the report has a headline and no verdict."""
    stop: Literal["fixed", "sequential"] = "fixed"
    """`fixed`: all prompts, then statistics. `sequential`: as soon as the primaries and gates are decided."""
    sequential: SequentialConfig = SequentialConfig()
    candidate: Reference = "trained"
    """The model that is judged: `trained` is what this configuration trains; docs/evaluation/models.md has the rest."""
    candidates: tuple[Reference, ...] = ()
    """Several, in place of `candidate`: each has its report, and all of them stand side by side in one more."""
    selection: SelectionConfig | None = None
    """Choose the best of the candidates on a part of the prompts, and judge it on the rest. Default: all on all."""
    trade_off: tuple[str, str] | None = None
    """Two metrics that pull apart; the report of several candidates shows which of them no other beats in both.
    Default: the first that compares with the instance pictures, and the first of how much of the prompt is shown."""
    baseline: Reference = "base"
    """What it is judged against, named in the same way."""
    strict: bool = False
    """Refuse to run where a metric's weights or packages are missing, instead of reporting that it was not run."""
    gallery: GalleryConfig = GalleryConfig()

    @property
    def prompt_set(self) -> PromptSetConfig:
        """`prompts`, if it is a path, as the section that means the same."""
        return PromptSetConfig(path=self.prompts) if isinstance(self.prompts, str) else self.prompts

    @property
    def references(self) -> tuple[str, ...]:
        """How the models that are judged are named."""
        return self.candidates or (self.candidate,)

    @property
    def axes(self) -> tuple[str, str] | None:
        """The metrics of `trade_off`; none where the default finds no such two."""
        judging = [metric for metric in self.metrics if _judges_prompts(metric)]
        alike = next((metric.id for metric in judging if metric.needs_references), None)
        obeys = next((metric.id for metric in judging if metric.of_prompt), None)
        return self.trade_off or ((alike, obeys) if alike and obeys else None)

    @property
    def chosen_by(self) -> str:
        """The metric of `selection`."""
        assert self.selection is not None
        return self.selection.by or next(metric.id for metric in self.metrics if metric.primary)

    @field_validator("metrics")
    @classmethod
    def _one_name_each(cls, metrics: tuple[MetricConfig, ...]) -> tuple[MetricConfig, ...]:
        repeated = sorted(name for name, count in Counter(metric.id for metric in metrics).items() if count > 1)
        if repeated:
            raise ValueError(f"metric {repeated[0]!r} is there more than once; give each its own `name`")
        return metrics

    @model_validator(mode="after")
    def _gates_and_stops_name_metrics(self) -> EvaluationConfig:
        known = {metric.id: metric for metric in self.metrics}
        for place, gate in enumerate(self.gates):
            if gate.metric not in known:
                raise ValueError(f"gates[{place}]: no metric is called {gate.metric!r}; there are {', '.join(known)}")
            if problem := _not_for_a_gate(known[gate.metric], gate):
                raise ValueError(f"gates[{place}]: {problem}")
        for name in self.sequential.indifferent:
            if name not in known or not known[name].primary:
                primaries = ", ".join(metric.id for metric in self.metrics if metric.primary) or "none"
                raise ValueError(f"sequential.indifferent: {name!r} is not a primary metric; there are {primaries}")
        if self.stop == "fixed" and self.sequential != SequentialConfig():
            raise ValueError("sequential: has no effect with stop: fixed; set stop: sequential, or remove it")
        return self

    @model_validator(mode="after")
    def _several_fit_together(self) -> EvaluationConfig:
        if self.candidates and self.candidate != type(self).model_fields["candidate"].default:
            raise ValueError(
                f"candidate and candidates: expected one of them, got both; add {self.candidate!r} to them"
            )
        if repeated := [name for name, count in Counter(self.candidates).items() if count > 1]:
            raise ValueError(f"candidates: {repeated[0]!r} is there more than once")
        for name in self.trade_off or ():
            self._require_judge("trade_off", name)
        if self.trade_off and self.trade_off[0] == self.trade_off[1]:
            raise ValueError(f"trade_off: expected two metrics, got {self.trade_off[0]!r} twice")
        if self.selection is not None:
            self._check_selection(self.selection)
        return self

    def _check_selection(self, selection: SelectionConfig) -> None:
        if not self.candidates:
            raise ValueError("selection: expected several candidates to choose from, got none")
        if self.stop == "sequential":
            raise ValueError("selection: goes with stop: fixed, got sequential; the choice needs all its prompts")
        if selection.by is not None:
            self._require_judge("selection.by", selection.by)
        elif not any(metric.primary for metric in self.metrics):
            raise ValueError("selection: no metric is primary, so name one in selection.by")

    def _require_judge(self, where: str, name: str) -> None:
        choices = [metric.id for metric in self.metrics if _judges_prompts(metric)]
        if name not in choices:
            raise ValueError(
                f"{where}: expected a metric that judges ({', '.join(choices) or 'none does'}), got {name!r}"
            )


def _judges_prompts(metric: Metric) -> bool:
    return metric.direction != 0 and metric.scored not in ("set", "pair")


def _not_for_a_gate(metric: Metric, gate: GateConfig) -> str:
    if metric.scored == "set":
        return f"{metric.id} is one number of a whole set, which has no interval to decide by"
    if gate.require in RELATIVE and (metric.direction == 0 or metric.scored == "pair"):
        return f"{metric.id} describes and has no better direction: require at_most or at_least, with a limit"
    return ""
