"""A search for good settings: what `--search` says, and the study that proposes them.

--search training.learning_rate=log:1e-5..1e-3 --search training.adapter.rank=4,8,16
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sdxl_core.config import Config
from tasks.errors import ConfigError
from tasks.manifest import Json
from tasks.sweeps.grid import check_keys
from tasks.yaml_config import parse_yaml

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as RunningTrial

LOG, TO = "log:", ".."
_REASON = "failed"
STARTUP_TRIALS = 5
"""Drawn at random before the first is proposed by what came of others. Optuna has 10, half of a search."""


class SearchConfig(Config):
    """What is looked for."""

    trials: Annotated[int, Field(ge=2, le=500)]
    """Trainings, those of an earlier search of the same settings included."""
    space: Annotated[dict[str, str], Field(min_length=1)]
    """Key -> `4,8,16` for one of these values, `100..400` for a number between, `log:1e-5..1e-3` for one whose
    logarithm is drawn evenly."""
    objective: str | None = None
    """Metric whose mean improvement over the base is to be large. Default: as of `evaluation.selection`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the proposals."""


@dataclass(frozen=True)
class Trial:
    """One proposal."""

    number: int
    settings: tuple[tuple[str, Json], ...]
    failed: str = ""
    """Why its training came to nothing, if an earlier search has found that."""


def parse_space(texts: Sequence[str]) -> dict[str, str]:
    """`KEY=RANGE` of the command line -> key -> range.

    Raises:
        ConfigError: a text is none, or a key is given twice.
    """
    space: dict[str, str] = {}
    for text in texts:
        key, equals, asked = (part.strip() for part in text.partition("="))
        if not equals or not key or not asked:
            raise ConfigError(
                f"--search {text[:100]}: expected KEY=RANGE, such as training.learning_rate=log:1e-5..1e-3"
            )
        if key in space:
            raise ConfigError(f"--search {text[:100]}: {key} is searched already")
        space[key] = asked
    return space


@dataclass(frozen=True)
class Between:
    """A number, of integers where both ends are."""

    low: float
    high: float
    is_log: bool

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class OneOf:
    values: tuple[Json, ...]


def understood(space: Mapping[str, str]) -> dict[str, Between | OneOf]:
    """
    Raises:
        ConfigError: a key cannot be searched, or its range is none.
    """
    check_keys("--search", space)
    return {key: _range(f"--search {key}", asked) for key, asked in space.items()}


def corners(space: Mapping[str, str]) -> list[tuple[tuple[str, Json], ...]]:
    """Settings that a search may come to and that, between them, have every end and every value of its ranges."""
    ends = {
        key: list(asked.values) if isinstance(asked, OneOf) else [asked.low, asked.high]
        for key, asked in understood(space).items()
    }
    most = max(map(len, ends.values()))
    return [tuple((key, values[min(place, len(values) - 1)]) for key, values in ends.items()) for place in range(most)]


def _range(where: str, asked: str) -> Between | OneOf:
    is_log = asked.startswith(LOG)
    ends = asked.removeprefix(LOG).split(TO)
    if len(ends) == 2:
        low, high = (parse_yaml(end.strip(), where) for end in ends)
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
        if not numbers or not low < high or (is_log and low <= 0):
            smallest = " above 0" if is_log else ""
            raise ConfigError.about(where, expected=f"LOW..HIGH, two numbers{smallest}, the smaller first", got=asked)
        return Between(low, high, is_log)
    if is_log or len(ends) > 2:
        raise ConfigError.about(where, expected="log:LOW..HIGH, LOW..HIGH or VALUE,VALUE", got=repr(asked))
    values = parse_yaml(f"[{asked}]", where)
    if len(values) < 2:
        raise ConfigError.about(where, expected="two values at least", got=repr(asked), fix="Use --set for one")
    return OneOf(tuple(values))


def require_optuna() -> None:
    """Raises ConfigError where it is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError("--optuna: needs the package optuna; install it: pip install 'sdxl-flows[optuna]'") from None


class Study:
    """Proposals of Optuna's TPE (Bergstra et al. 2011), written to a journal file as they come and as they end.

    Every proposal has a sampler of its own, seeded by the search's seed and the proposal's number. So it follows from
    the results before it alone, and a search that was killed goes on as it would have; even without its journal.
    """

    def __init__(self, journal: Path, search: SearchConfig, at_once: int = 1) -> None:
        require_optuna()
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search, self._at_once = search, at_once
        self._space = understood(search.space)
        journal.parent.mkdir(parents=True, exist_ok=True)
        drop_half_a_line(journal)
        # whoever dies holding Optuna's lock leaves it; the caller holds a lock of ours, so nobody else is there
        Path(f"{journal}.lock").unlink(missing_ok=True)
        backend = JournalFileBackend(str(journal), JournalFileOpenLock(str(journal)))
        self._study: OptunaStudy = optuna.create_study(
            storage=JournalStorage(backend), study_name="sweep", direction="maximize", load_if_exists=True
        )

    @property
    def finished(self) -> int:
        """Trials that have ended, well or not."""
        return sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False))

    def interrupted(self) -> list[Trial]:
        """Those that were proposed and never ended."""
        return [self._trial(one) for one in self._study.get_trials(deepcopy=False) if not one.state.is_finished()]

    def ended(self) -> list[Trial]:
        """Those that have, in their order."""
        return [self._trial(one) for one in self._study.get_trials(deepcopy=False) if one.state.is_finished()]

    def propose(self) -> Trial:
        self._study.sampler = self._sampler(len(self._study.get_trials(deepcopy=False)))
        return self._trial(self._study.ask(self._distributions()))

    def tell(self, trial: Trial, improvement: float) -> None:
        self._study.tell(trial.number, improvement)

    def tell_failed(self, trial: Trial, reason: str) -> None:
        from optuna.trial import Trial as Running
        from optuna.trial import TrialState

        found = self._study.get_trials(deepcopy=False)[trial.number]
        Running(self._study, found._trial_id).set_user_attr(_REASON, reason)
        self._study.tell(trial.number, state=TrialState.FAIL)

    def _sampler(self, number: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        # several at once are taken for bad while they run, so that they are not all the same
        return TPESampler(
            seed=self._search.seed + number, n_startup_trials=STARTUP_TRIALS, constant_liar=self._at_once > 1
        )

    def _distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        made: dict[str, BaseDistribution] = {}
        for key, asked in self._space.items():
            if isinstance(asked, OneOf):
                made[key] = CategoricalDistribution([json.dumps(value) for value in asked.values])
            elif asked.is_whole:
                made[key] = IntDistribution(int(asked.low), int(asked.high), log=asked.is_log)
            else:
                made[key] = FloatDistribution(asked.low, asked.high, log=asked.is_log)
        return made

    def _trial(self, one: FrozenTrial | RunningTrial) -> Trial:
        values = {
            key: json.loads(value) if isinstance(self._space[key], OneOf) else _rounded(value)
            for key, value in one.params.items()
        }
        settings = tuple((key, values[key]) for key in self._space)
        return Trial(one.number, settings, str(one.user_attrs.get(_REASON, "")))


def _rounded(value: float) -> float:
    """To four digits: nobody can tell more of them apart, and names stay readable."""
    return value if isinstance(value, int) else float(f"{value:.4g}")


def drop_half_a_line(journal: Path) -> None:
    """Cut off what a kill in the middle of writing has left, which would spoil the line that comes next."""
    if not journal.exists():
        return
    with journal.open("r+b") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
            os.fsync(file.fileno())
