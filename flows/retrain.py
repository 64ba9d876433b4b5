"""The flow `retrain`: a candidate from the data as it is now, promoted if it is better than base and incumbent."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import flow
from prefect.states import Completed

from flows.common import Carried, Configured, carry_through, configure, this_deployment
from flows.retraining import Retrained, Retraining, Wiring
from flows.wiring import LEARNT
from tasks.announcing import announce
from tasks.config import PipelineConfig
from tasks.policies import prefect_runner
from tasks.registry import Registry
from tasks.settings import Settings
from tasks.shown import board
from tasks.store import ArtifactStore
from tasks.trainings import Resume


@flow(name="retrain", result_serializer="json")
def retrain(
    config: Configured,
    settings: Settings | None = None,
    overrides: list[str] | None = None,
    force: bool = False,
    command: str | None = None,
) -> Any:
    """Train on the data as it is now, unless that was done before, and promote what is proven better.

    Args:
        config: path of the YAML file of the whole configuration; it has `evaluation.gates`.
        settings: what is to be otherwise than in the file.
        overrides: the same as texts `key.path=value`, such as `retraining.warm_start=true`; these come last.
        force: train and judge although the same data and settings were judged before.
        command: what the report says makes it again; default: this deployment with these parameters.
    """
    return retrained(configure(config, overrides, settings=settings), force, command or this_deployment())


def retrained(config: PipelineConfig, force: bool, command: str) -> Any:
    """A completed state whose name says what became of the candidate."""
    store = config.runtime.open_store()

    def carry(changed: PipelineConfig, wiring: Wiring, is_trained: bool) -> Carried:
        expecting = LEARNT if is_trained else ()
        # nobody is there to decide what becomes of an unfinished training whose data have changed since
        return carry_through(changed, command, wiring, expecting=expecting, resume=Resume(fresh=True))

    retraining = Retraining(
        config=config,
        command=command,
        carry=carry,
        build=prefect_runner(store, config.runtime, config.name),
        promoted=lambda registry, name: announce(registry, name, config.retraining),
        force=force,
    )
    done = retraining.run()
    with board(store, config.name) as shown:
        shown.table(f"model-{done.model}", f"Versions of {done.model}: {done.outcome}", _versions(store, done))
    name, message = done.outcome.title().replace(" ", ""), f"{done.model}: {done.outcome} ({done.reason})"
    data = asdict(done) | {"reports": [str(report) for report in done.reports]}
    return Completed(name=name, message=message, data=data)


def _versions(store: ArtifactStore, done: Retrained) -> list[dict[str, Any]]:
    """Newest first."""
    return [
        {
            "version": version.number,
            "in production": version.number == done.production,
            "verdict": version.verdict,
            "against": "base" if version.against is None else f"base, version {version.against}",
            "made": version.made_at,
            "release": str(version.release),
        }
        for version in reversed(Registry(store).versions(done.model))
    ]
