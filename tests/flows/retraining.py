"""Retraining of the short experiment, run without Prefect."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flows.retraining import Retrained, Retraining, Wiring
from flows.wiring import LEARNT
from tasks.config import PipelineConfig
from tasks.experiment import prepare_experiment
from tasks.manifest import Ref
from tasks.plan import Expecting
from tasks.registry import Registry
from tasks.runs import Recorder, finish_run, verdict_of
from tasks.stage import Call, materialise
from tasks.store import ArtifactStore
from tasks.trainings import Resume
from tasks.yaml_config import read_config

PASSED = "evaluation.gates=[{metric: clip_i, require: at_least, limit: 0.0}]"
FAILED = "evaluation.gates=[{metric: clip_i, require: at_least, limit: 2.0}]"
UNDECIDED = (
    "evaluation.gates=[{metric: clip_i, require: better, margin: 0.0}, {metric: ssim, require: at_most, limit: 1}]"
)


@dataclass(frozen=True)
class Run:
    refs: dict[str, Ref]
    report: Path
    verdict: str | None


@dataclass
class RetrainingWorld:
    """A folder with pictures, prompts and `short.yaml`; `built` are the labels of the stages of the last run."""

    folder: Path
    built: list[str] = field(default_factory=list)
    told: list[int | None] = field(default_factory=list)
    """What was in production whenever the world was told."""
    before_judging: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.store = ArtifactStore(self.folder / "store")
        self.registry = Registry(self.store)

    def retrain(self, *overrides: str, force: bool = False) -> Retrained:
        self.built.clear()
        with contextlib.chdir(self.folder):
            config = read_config(self.folder / "short.yaml", [*(overrides or [PASSED]), "runtime.store=./store"])
            return Retraining(config, "test", self._carry, self._build, self._tell, force).run()

    def production(self) -> int | None:
        current = self.registry.production("short")
        return None if current is None else current.number

    def happened(self) -> list[tuple[str, int | None]]:
        return [(event.what, event.version) for event in self.registry.history("short")]

    def _tell(self, registry: Registry, name: str) -> None:
        current = registry.production(name)
        self.told.append(None if current is None else current.number)

    def _build(self, call: Call) -> Ref:
        if self.store.find_whole(call.recipe().kind, call.recipe().key) is None:
            self.built.append(call.label)
        return materialise(call, self.store, "cpu")

    def _carry(self, config: PipelineConfig, wiring: Wiring, is_trained: bool) -> Run:
        if is_trained:
            self.before_judging()
        experiment = prepare_experiment(config, self.store, "test", Resume(fresh=True))
        recorder = Recorder(self._build)
        wiring(experiment, Expecting(LEARNT if is_trained else (), self.store, recorder))
        report = finish_run(self.store, experiment.name, "test", recorder.refs)
        return Run(recorder.refs, report, verdict_of(self.store, recorder.refs))
