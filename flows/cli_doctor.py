"""`sdxl-flows doctor`: what this machine has, and what a configuration's training needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import console
from flows.cli_runs import Overrides

if TYPE_CHECKING:
    from tasks.doctor_training import Forecast, OnCard

PAGE_WIDTH = 120
ConfigFile = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help="Say what this configuration's training needs instead.")
]
AsJson = Annotated[bool, typer.Option("--json", help="With CONFIG: one JSON object.")]


def doctor(config: ConfigFile = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what this machine has of what a run needs: versions, device, memory, disk, extras, hub access.

    Exit code 1 if something that every run needs is missing. With CONFIG: how much memory its training will need, how
    long a step takes, which GPUs it fits on, and which settings would make it fit; nothing is loaded or started.

    Examples: `sdxl-flows doctor`, `sdxl-flows doctor configs/sdxl/lora.yaml --set training.micro_batch_size=8`
    """
    if config is None:
        if overrides or as_json:
            raise typer.BadParameter("--set and --json are about a CONFIG; name one")
        _machine()
        return
    from tasks.doctor_training import forecast
    from tasks.yaml_config import read_config

    found = forecast(read_config(config, overrides or []))
    if as_json:
        console.out(found.model_dump_json(indent=1))
    else:
        _show(found)


def _machine() -> None:
    from tasks.doctor import examine

    findings = []
    for finding in examine():
        console.out(f"{finding.state:<5} {finding.subject:<13} {finding.text}")
        findings.append(finding)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def _show(found: Forecast) -> None:
    from rich.console import Console
    from rich.table import Table

    page = Console(width=None if sys.stdout.isatty() else PAGE_WIDTH, highlight=False, markup=False)
    memory = Table("memory of a step", "")
    for name, size in found.parts.items():
        memory.add_row(name, _size(size))
    memory.add_row("tensors in all, at most", _size(found.peak_bytes))
    page.print(memory)
    page.print(
        f"{found.rows_per_step} rows a step, {found.step_flops / 1e12:.3g} TFLOP a step, {found.max_steps} steps"
    )
    if found.here is not None:
        here = found.here
        verdict = "fits" if here.needed_bytes <= here.memory_bytes else "DOES NOT FIT"
        page.print(
            f"this machine ({here.device}, {_size(here.memory_bytes)}): needs {_size(here.needed_bytes)}, "
            f"{verdict}; {_time(here.step_s)} a step, {_time(here.step_s * found.max_steps)} in all ({here.how})"
        )
    cards = Table("GPU", "fits", "needs", "a step", "in all", "with")
    for card in found.cards:
        times = (_time(card.step_s), _time(card.step_s * found.max_steps)) if card.fits else ("", "")
        cards.add_row(
            f"{card.memory_gb} GB ({card.card})", _verdict(card), _size(card.needed_bytes), *times, _with(card)
        )
    page.print(cards)
    for note in found.notes:
        page.print(note)


def _verdict(card: OnCard) -> str:
    return ("with changes" if card.changes else "yes") if card.fits else "no"


def _with(card: OnCard) -> str:
    return "\n".join(f"{change.settings}  ({change.costs})" for change in card.changes)


def _size(count: float) -> str:
    """Memory, as GPUs' is counted: a GiB is 2^30 bytes."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
