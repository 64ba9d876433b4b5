"""The flow `relabel`: have scorers say which pictures are preferred; nothing is trained."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import preferences
from flows.common import Configured, configure
from tasks.experiment import prepare_experiment
from tasks.feedback import keep_relabelled
from tasks.policies import prefect_runner
from tasks.runs import Recorder


@flow(name="relabel")
def relabel(config: Configured, overrides: list[str] | None = None) -> dict[str, Any]:
    """From pairs, or prompts to draw pairs of, to labels by scorers.

    Args:
        config: the whole configuration, or the path of its YAML file; it has a section `feedback`.
        overrides: `key.path=value`, such as `feedback.min_margin=0.5`.

    Returns:
        `feedback`: where its artifact lies; `artifacts`: all by label.
    """
    configured = configure(config, overrides or [])
    store = configured.runtime.open_store()
    recorder = Recorder(prefect_runner(store, configured.runtime.device))
    preferences.relabel(prepare_experiment(configured, store, "relabel"), recorder)
    place = keep_relabelled(store, configured.name, recorder.refs)
    return {"feedback": str(place), "artifacts": {label: str(ref) for label, ref in recorder.refs.items()}}
