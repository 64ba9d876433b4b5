"""The commands `cache` and `class-images`: what a machine can prepare before a GPU is free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows import console
from flows.cli_runs import ConfigFile, Overrides, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.cli_prepared import Prepared


def cache(config: ConfigFile, overrides: Overrides = None) -> None:
    """Prepare all that a training reads: dataset, checks, faces, class images, latents, text. Trains nothing.

    `run` with the same settings, here or on another machine with the same store, begins with the training.

    Example: `sdxl-flows cache configs/miniature/dreambooth.yaml`
    """
    from flows.wiring import cache as wiring

    def start(prepared: Prepared) -> dict[str, Any]:
        from flows.cache_only import cache_only

        return cache_only(prepared.experiment.config)

    _carry_out(prepare(config, overrides, wiring=wiring), start)


def class_images(config: ConfigFile, overrides: Overrides = None) -> None:
    """Draw the class images of the section `prior`, and nothing else.

    Example: `sdxl-flows class-images configs/miniature/dreambooth.yaml --set prior.count=200`
    """
    from flows.wiring import class_pictures as wiring

    def start(prepared: Prepared) -> dict[str, Any]:
        from flows.class_images import class_images

        return class_images(prepared.experiment.config)

    _carry_out(prepare(config, overrides, wiring=wiring), start)


def _carry_out(prepared: Prepared, start: Callable[[Prepared], dict[str, Any]]) -> None:
    from tasks.prefect_home import local_prefect

    if prepared.planner.complete:
        made = {label: str(ref) for label, ref in prepared.reused.refs.items()}
    else:
        with local_prefect(prepared.store.root):
            made = start(prepared)["artifacts"]
    console.table(list(made.items()))
