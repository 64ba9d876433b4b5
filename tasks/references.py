"""How a model is named: on the command line, in a flow's parameter and in a configuration alike.

    base | trained | dog.safetensors | dog.safetensors:0.8 + org/style@v2:0.5 | a folder | train/1f3a | a run's name
    trained@120 | train/1f3a@120 | a run's name@120: an earlier step of the training
    production/dog | production/dog@3: what a model of the store has in production, or had as its third version

docs/evaluation/models.md says what each means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_config.exported_steps import exported_steps
from tasks.errors import ConfigError
from tasks.yaml_config import SUM, resolve_paths

BASE, TRAINED = "base", "trained"
STORED, IN_PRODUCTION = "train/", "production/"
"""Begin the names of what lies in the store: a training, a model's version in production."""
AT, ALL_STEPS = "@", "trained@*"
_STEP = re.compile(r"0*[1-9][0-9]{0,11}")
_SET_IT = "Set training.export_every_steps"
_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?P<file>(/[\w.-]+)*\.safetensors)?(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Term:
    """One of the things that are added up."""

    what: str
    scale: float
    step: int | None = None
    """Of a training, where one is named."""

    @property
    def is_local(self) -> bool:
        return self.what.startswith("/")

    @property
    def name(self) -> str:
        """For people."""
        what = self.what
        if self.is_local:
            path = Path(what)
            what = path.stem if path.suffix == ".safetensors" else path.name
        if self.step is not None:
            what = f"{what}@{self.step}"
        return what if self.scale == 1 else f"{what} x {self.scale:g}"


@dataclass(frozen=True)
class HubModel:
    repository: str
    file: str | None
    revision: str | None


def parse_reference(reference: str, where: str) -> tuple[Term, ...]:
    """Local paths in it are absolute.

    Raises:
        ConfigError: a scale is no number, or a name is missing; it names the setting `where`.
    """
    return tuple(_term(text.strip(), where) for text in reference.split(SUM))


def hub_model(what: str, where: str) -> HubModel:
    """`org/name`, `org/name/file.safetensors`, either with `@revision`. Raises ConfigError where it is none."""
    match = _HUB.fullmatch(what)
    if match is None:
        fix = "A local path begins with ./, ../, / or ~"
        expected = "base, trained, a local path, a hub id, a run's name or train/KEY"
        raise ConfigError.about(where, expected=expected, got=repr(what), fix=fix)
    file = match["file"]
    return HubModel(match["repository"], file.lstrip("/") if file else None, match["revision"])


def names_trained(references: Sequence[str]) -> bool:
    """Whether one of them needs what the configuration trains."""
    terms = (term for reference in references for term in reference.split(SUM))
    return any(name_of(term) == TRAINED for term in terms)


def expand_steps(references: Sequence[str], training: TrainingConfig, where: str, after: int = 0) -> tuple[str, ...]:
    """The references with `trained@*`, alone or in a sum, once for every step that is exported, in order, the last at
    the end; others as they are. Steps of at most `after` are another run's.

    Raises:
        ConfigError: none is exported; it names the setting `where`.
    """
    found: list[str] = []
    for reference in references:
        terms = reference.split(SUM)
        places = [place for place, term in enumerate(terms) if term.partition(":")[0].strip() == ALL_STEPS]
        steps = steps_by_name(training, where, after) if places else [TRAINED]
        for name in steps:
            found.append(SUM.join(t.replace(ALL_STEPS, name) if i in places else t for i, t in enumerate(terms)))
    return tuple(found)


def steps_by_name(training: TrainingConfig, where: str, after: int = 0) -> list[str]:
    """`trained@100`, `trained@200`, ..., to the last step. Raises ConfigError where there is none but the last."""
    names = [f"{TRAINED}{AT}{step}" for step in exported_steps(training, after)]
    if not names:
        raise ConfigError.about(where, expected="a training that exports steps", got=ALL_STEPS, fix=_SET_IT)
    return names if training.export == "best" else [*names, TRAINED]


def own_step(step: int, training: TrainingConfig, where: str, after: int = 0) -> int | None:
    """Which step beside the result of the configuration's training `trained@STEP` is; None: the result itself.

    Raises:
        ConfigError: it exports no such step; it names the setting `where`.
    """
    if step == training.max_steps and training.export == "last":
        return None
    steps = exported_steps(training, after)
    if step in steps:
        return step
    there = [*steps, *([training.max_steps] if training.export == "last" else [])]
    expected = f"a step that the training exports ({', '.join(map(str, there)) or 'none'})"
    fix = _SET_IT if training.export_every_steps is None else ""
    raise ConfigError.about(where, expected=expected, got=f"{TRAINED}{AT}{step}", fix=fix)


def as_local(reference: str) -> str:
    """As it is said on a command line: what exists here is a local path."""
    terms = (str(Path(term).absolute()) if _exists(term) else term for term in reference.split(SUM))
    return SUM.join(resolve_paths(term, Path.cwd()) for term in terms)


def split_step(what: str, where: str) -> tuple[str, int | None]:
    """`trained@120`, `train/1f3a@120` or a run's name@120 -> the name, and the step; local paths and hub ids have none.

    Raises:
        ConfigError: what stands behind the @ is no step; it names the setting `where`.
    """
    if AT not in what or ("/" in what and not what.startswith((STORED, IN_PRODUCTION))):
        return what, None
    name, _, number = what.rpartition(AT)
    if not _STEP.fullmatch(number) or not name:
        fix = f"evaluation.candidates takes {ALL_STEPS}, for every exported step." if number == "*" else ""
        raise ConfigError.about(where, expected=f"one step behind {AT}: trained@100", got=repr(what), fix=fix)
    return name, int(number)


def _exists(term: str) -> bool:
    if name_of(term) in (BASE, TRAINED):
        return False
    return any(Path(text).exists() for text in (term, term.rpartition(":")[0]) if text)


def _term(text: str, where: str) -> Term:
    what, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        what, number = text, "1"
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if not what or not math.isfinite(scale):
        expected = f"a model, or several joined by '{SUM}', each perhaps with a scale: ./dog.safetensors:0.8"
        raise ConfigError.about(where, expected=expected, got=repr(text))
    named, step = split_step(what, where)
    return Term(named, scale, step)


def name_of(term: str) -> str:
    """Of a term, without its step and scale."""
    return re.split(f"[:{AT}]", term)[0].strip()
