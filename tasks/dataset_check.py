"""`prepare-dataset check`: what a dataset holds and what is wrong with it, without keeping anything."""

from __future__ import annotations

from collections.abc import Callable

from sdxl_core.urls import is_url
from tasks.config import PipelineConfig
from tasks.mirrors import found_here
from tasks.progress import stage_progress


def check_dataset(config: PipelineConfig, tell: Callable[[str], None]) -> None:
    """Look at every picture, and `tell` the table of the preflight; crops are left out where a detector decides them.

    Raises:
        UserError: what a run would refuse.
    """
    from sdxl_core.data.examination import refuse_if_bad
    from sdxl_core.data.examine import examine
    from sdxl_core.data.pair_report import refuse_two_sizes
    from sdxl_core.data.preflight import format_summary, summarise

    dataset = config.dataset
    if is_url(dataset.path):
        dataset, _ = found_here(dataset.model_copy(update={"validation_path": None}), config.runtime.open_store())
    with stage_progress("check", publish=False) as progress:
        found = examine(dataset, progress=progress)
    transform = config.transform if config.transform.face.detector is None else None
    summary = summarise(found.records, found.problems, found.several_frames, transform, pairs=found.pairs)
    tell(format_summary(summary))
    refuse_if_bad(dataset, found)
    refuse_two_sizes(summary.get("pairs", {}))
