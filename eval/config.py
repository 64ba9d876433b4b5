"""Configuration of an evaluation. Importing this imports no torch."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from eval.scorers import MetricConfig
from eval.settings import Config

PositiveInt = Annotated[int, Field(ge=1)]
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
    strict: bool = False
    """Refuse to run where a metric's weights or packages are missing, instead of reporting that it was not run."""
    gallery: GalleryConfig = GalleryConfig()

    @property
    def prompt_set(self) -> PromptSetConfig:
        """`prompts`, if it is a path, as the section that means the same."""
        return PromptSetConfig(path=self.prompts) if isinstance(self.prompts, str) else self.prompts

    @field_validator("metrics")
    @classmethod
    def _one_name_each(cls, metrics: tuple[MetricConfig, ...]) -> tuple[MetricConfig, ...]:
        repeated = sorted(name for name, count in Counter(metric.id for metric in metrics).items() if count > 1)
        if repeated:
            raise ValueError(f"metric {repeated[0]!r} is there more than once; give each its own `name`")
        return metrics
