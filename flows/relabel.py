"""The flow `relabel`: have scorers say which pictures are preferred; nothing is trained."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import preferences
from flows.common import Configured, configure, named, recorded
from tasks.experiment import prepare_experiment
from tasks.feedback import keep_relabelled
from tasks.settings import Settings


@flow(name="relabel", result_serializer="json")
def relabel(config: Configured, settings: Settings | None = None, overrides: list[str] | None = None) -> dict[str, Any]:
    """From pairs, or prompts to draw pairs of, to labels by scorers.

    Args:
        config: path of the YAML file of the whole configuration; it has a section `feedback`.
        settings: what is to be otherwise than in the file.
        overrides: the same as texts `key.path=value`, such as `feedback.min_margin=0.5`; these come last.

    Returns:
        `feedback`: where its artifact lies; `artifacts`: all by label.
    """
    configured = configure(config, overrides, settings=settings)
    store = configured.runtime.open_store()
    experiment = prepare_experiment(configured, store, "relabel")
    with recorded(experiment, store) as (recorder, _):
        preferences.relabel(experiment, recorder)
    place = keep_relabelled(store, configured.name, recorder.refs)
    return {"feedback": str(place), "artifacts": named(recorder.refs)}
