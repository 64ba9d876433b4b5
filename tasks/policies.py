"""Stages as Prefect tasks: cache, retry and serialisation policy, named once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.results import ResultStore
from prefect.types import DateTime
from pydantic import ValidationError

from tasks.config import RuntimeConfig
from tasks.manifest import Ref
from tasks.remote.launch import materialise_elsewhere
from tasks.stage import Call, Conditions, Handle, Runner, Spread, Stage, materialise
from tasks.store import ArtifactStore, StorePlace
from tasks.transient import is_transient
from tasks.worker_gone import end_with_worker

_LOG = logging.getLogger("sdxl_flows")
RETRY_DELAYS_S = [5.0, 30.0]


@dataclass
class ArtifactPolicy(CachePolicy):
    """Prefect's record of a stage is an index to the store: it counts only while the artifact is there whole."""

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str:
        """The artifact's own key. A record whose artifact is gone, damaged or another is expired on the way."""
        call: Call = inputs["call"]
        recipe = call.recipe()
        key = f"{recipe.kind}-{recipe.key}"
        records = task_ctx.result_store
        if records is not None and records.exists(key):
            store = ArtifactStore.at(inputs["place"])
            present = store.find_whole(recipe.kind, recipe.key)
            if present is None or present != _recorded(records, key) or not store.is_shared(present):
                _expire(records, key)
        return key


def prefect_runner(store: ArtifactStore, runtime: RuntimeConfig, run_name: str) -> Runner:
    """A runner that runs every stage as a Prefect task, directly in the flow's own thread."""
    end_with_worker()
    spread = _spread(runtime, run_name)

    def run(call: Call) -> Handle:
        recipe = call.recipe()
        reused = store.find_whole(recipe.kind, recipe.key) is not None
        named = stage_task(call.stage).with_options(task_run_name=call.label)
        limit_s = runtime.timeout_hours.seconds(call.stage.kind)
        elsewhere = runtime.train_on if call.stage.kind in runtime.elsewhere else None
        under = Conditions(run_name, limit_s, publish=call.stage.heavy, elsewhere=elsewhere, spread=spread)
        # Prefect gives a plain dict back from its records, silently, when it cannot rebuild a class: so dicts it is
        ref = Ref.model_validate(named(call, store.place, runtime.device, under))
        if reused:
            _LOG.info("%-22s reused", call.label)
        return ref

    return run


def _spread(runtime: RuntimeConfig, run_name: str) -> Spread | None:
    """Raises ConfigError where the engine is not to be had."""
    if runtime.fan_out.engine == "none":
        return None
    from tasks.fan_out.fan import FanOut

    return FanOut(runtime.fan_out, runtime.device, run_name)


@cache
def stage_task(stage: Stage) -> Task[..., dict[str, str]]:
    """The Prefect task of a stage.

    Limits of time are our own (`tasks.time_limit`): Prefect's would count the wait for a device too.
    """

    def run_stage(call: Call, place: StorePlace, device: str, under: Conditions) -> dict[str, str]:
        store = ArtifactStore.at(place)
        if under.elsewhere is not None:
            return materialise_elsewhere(call, store, under.elsewhere, under).model_dump()
        return materialise(call, store, device, under).model_dump()

    return Task(
        run_stage,
        name=stage.kind,
        cache_policy=ArtifactPolicy(),
        persist_result=True,
        result_serializer="json",
        retries=stage.retries,
        retry_delay_seconds=RETRY_DELAYS_S[: stage.retries],
        retry_condition_fn=is_worth_retrying,
    )


def is_worth_retrying(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """What passes by itself, and nothing else.

    A stop that is meant for the flow comes as a signal, by which the flow itself ends; it is never an error here.
    """
    return is_transient(state.result(raise_on_failure=False))


def _recorded(records: ResultStore, key: str) -> Ref | None:
    try:
        return Ref.model_validate(records.read(key).result)
    except ValidationError:
        return None


def _expire(records: ResultStore, key: str) -> None:
    """An expired record is a miss on every kind of storage; deleting is not possible on all."""
    records.write(obj=None, key=key, expiration=DateTime.now("UTC"))
    # what Prefect has read before stays in its memory; this is not part of its public interface
    records.cache.pop(records._resolved_key_path(key), None)
