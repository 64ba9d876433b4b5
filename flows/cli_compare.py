"""The command `compare`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_prepared import carry_out, check
from flows.cli_runs import Overrides

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="BASELINE MODEL...",
        help="Models by any of their names, as `evaluate --candidate` takes them; all are compared with the first.",
    ),
]


def compare(
    models: Models,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Whose prompts, sampling and metrics; default: those of a run among them."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="At most so many, every category with its share.")] = 8,
    overrides: Overrides = None,
) -> None:
    """A quick look: a few pictures of several models side by side, with their scores. It promotes nothing.

    Pictures that are there are used again. `evaluate` with several candidates is the same on all prompts.

    Examples: `sdxl-flows compare base kestrel kestrel:0.6`,
    `sdxl-flows compare base ./dog.safetensors "./dog.safetensors:0.7 + ./style.safetensors" -c my.yaml --prompts 16`
    """
    from flows.wiring import LEARNT, evaluate
    from tasks.quick_look import quick_look
    from tasks.store import named_store

    settled = quick_look(config, overrides or [], models, prompts, named_store())
    words = ["compare", *models, *(["--config", str(config)] if config else []), "--prompts", str(prompts)]
    words += [word for change in overrides or [] for word in ("--set", change)]
    command = shlex.join(["sdxl-flows", *words])
    prepared = check(settled, command, evaluate, LEARNT)

    def start() -> dict[str, Any]:
        from flows.evaluate import evaluate as flow

        return flow(settled, command=command)

    carry_out(prepared, start)
