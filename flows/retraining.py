"""From new data to a promoted model, or to none: the steps of `retrain`, whatever runs the stages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flows import wiring
from tasks.config import PipelineConfig
from tasks.experiment import Experiment, prepare_experiment
from tasks.manifest import Ref
from tasks.registry import Registry
from tasks.release import release
from tasks.retraining import (
    OF_VERDICT,
    Outcome,
    against_incumbent,
    asked,
    check_retraining,
    combined,
    known,
    model_name,
    unfinished_promotion,
    warm,
)
from tasks.stage import Handle, Runner
from tasks.store import ArtifactStore
from tasks.versions import Moved, Version

_LOG = logging.getLogger("sdxl_flows")
_MOST_MOVES = 3
"""How often a candidate is judged again because something else came into production meanwhile."""


class Judged(Protocol):
    """A run that has ended with a report."""

    @property
    def refs(self) -> Mapping[str, Ref]: ...
    @property
    def report(self) -> Path: ...
    @property
    def verdict(self) -> str | None: ...


Wiring = Callable[[Experiment, Runner], Handle]
Carry = Callable[[PipelineConfig, Wiring, bool], Judged]
"""Runs a wiring with a configuration, from the stages to the report; the last says whether all training is there."""


@dataclass(frozen=True)
class Retrained:
    """What came of it."""

    model: str
    outcome: Outcome
    reason: str
    version: int | None
    """The candidate, or the one that was made of the same before."""
    production: int | None
    """What is in production now."""
    reports: tuple[Path, ...] = ()
    """Against the base, and against what was in production."""


@dataclass(frozen=True)
class Retraining:
    """One model's."""

    config: PipelineConfig
    command: str
    carry: Carry
    build: Runner
    promoted: Callable[[Registry, str], None]
    """Called whenever the pointer was moved, or is found to be where nobody was told of it."""
    force: bool = False
    """Train and judge although the same was judged before."""

    def run(self) -> Retrained:
        """
        Raises:
            UserError: the configuration cannot be retrained by, or something that it points at is not there.
            Moved: what is in production was changed by others again and again.
        """
        check_retraining(self.config)
        store = self.config.runtime.open_store()
        registry, name = Registry(store), model_name(self.config)
        with registry.retraining(name):
            if (late := unfinished_promotion(registry, name)) is not None:
                registry.point(name, late.number, "promoted", expected=late.against, reason="after an interruption")
            self.promoted(registry, name)
            return self._retrain(registry, name, store)

    def _retrain(self, registry: Registry, name: str, store: ArtifactStore) -> Retrained:
        incumbent = registry.production(name)
        what = asked(prepare_experiment(self.config, store, self.command))
        if not self.force and (found := known(registry, name, what)) is not None:
            return self._nothing_new(registry, name, found.reason, found.version)
        config = warm(self.config, incumbent, store)
        first = self.carry(config, wiring.finetune, False)
        if incumbent is not None and first.refs["train"].digest == incumbent.training.digest:
            reason = f"what was trained is version {incumbent.number}, to the last bit"
            registry.note(name, "unchanged", incumbent.number, asked=what, reason=reason)
            return self._nothing_new(registry, name, reason, incumbent)
        for _ in range(_MOST_MOVES):
            try:
                return self._judge(registry, name, config, what, first)
            except Moved as moved:
                _LOG.warning("%s; judging against that", moved)
        raise Moved(f"{name}: what is in production changed {_MOST_MOVES} times while a candidate was judged")

    def _judge(self, registry: Registry, name: str, config: PipelineConfig, what: str, first: Judged) -> Retrained:
        """Against what is in production, if anything is; and promote it if it has shown all that was asked."""
        incumbent, against = registry.production(name), None
        if incumbent is not None:
            compared = against_incumbent(config, registry.reference(name, incumbent))
            against = self.carry(compared, wiring.evaluate, True)
        runs = [first, *([against] if against is not None else [])]
        verdict = combined([str(run.verdict) for run in runs])
        version = self._keep(registry, name, what, first, against, verdict)
        if verdict == "promote":
            expected = None if incumbent is None else incumbent.number
            registry.point(name, version.number, "promoted", expected=expected, reason="passed all gates")
            self.promoted(registry, name)
        return Retrained(
            model=name,
            outcome=OF_VERDICT[verdict],
            reason=" and ".join(
                f"{run.verdict} against {whom}" for run, whom in zip(runs, ("the base", "production"), strict=False)
            ),
            version=version.number,
            production=_number(registry.production(name)),
            reports=tuple(run.report for run in runs),
        )

    def _keep(
        self, registry: Registry, name: str, what: str, first: Judged, against: Judged | None, verdict: str
    ) -> Version:
        """The candidate as a version, with all that belongs to it in one release."""
        report = None if against is None else against.refs["report"]
        made = self.build(release(name, self.config.retraining.hub, first.refs, report))
        assert isinstance(made, Ref)
        return registry.add(
            name,
            release=made,
            training=first.refs["train"],
            report=first.refs["report"],
            verdict=verdict,
            asked=what,
            command=self.command,
        )

    def _nothing_new(self, registry: Registry, name: str, reason: str, version: Version | None) -> Retrained:
        production = _number(registry.production(name))
        _LOG.info("%s: nothing new: %s", name, reason)
        return Retrained(name, "nothing new", reason, _number(version), production)


def _number(version: Version | None) -> int | None:
    return None if version is None else version.number
