"""The flow `self-test`: does this evaluation find nothing where nothing is?"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import wiring
from flows.common import Configured, configure
from tasks.experiment import prepare_experiment
from tasks.policies import prefect_runner
from tasks.runs import Recorder, record_run
from tasks.self_test import changes, result


@flow(name="self-test", result_serializer="json")
def self_test(config: Configured, overrides: list[str] | None = None, comparisons: int = 1) -> dict[str, Any]:
    """Compare the base with itself: from the same noise, bit by bit, and from other noise, by all metrics.

    Args:
        config: the whole configuration, or the path of its YAML file.
        overrides: `key.path=value`, such as `evaluation.confidence=0.9`.
        comparisons: how many, each from noise of its own; every one draws two pictures of each prompt.
    """
    configured = configure(config, [*(overrides or []), *changes(comparisons)])
    store = configured.runtime.open_store()
    recorder = Recorder(prefect_runner(store, configured.runtime, configured.name))
    wiring.self_test(prepare_experiment(configured, store, "self-test"), recorder)
    record_run(store, f"{configured.name}-self-test", "self-test", recorder.refs)
    return result(store, recorder.refs["self_test"])
