"""The command `self-test`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import console
from flows.cli_runs import ConfigFile, Overrides, Strict, prepare, strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

Comparisons = Annotated[
    int, typer.Option(min=1, help="How many comparisons, each of two pictures a prompt from noise of its own.")
]


def self_test(
    config: ConfigFile, comparisons: Comparisons = 1, overrides: Overrides = None, strict: Strict = False
) -> None:
    """Compare the base with itself: an evaluation that finds something there cannot be trusted.

    Pictures drawn anew from the same noise have to be equal, bit for bit; between pictures from other noise no primary
    metric may find a winner, but for one comparison in twenty (at 95 %). Ends with 3 if something is wrong.

    Example: `sdxl-flows self-test configs/miniature/dreambooth.yaml --comparisons 4`
    """
    from flows.wiring import self_test as wiring
    from tasks.errors import EXIT_CODE_OF_VERDICT
    from tasks.prefect_home import local_prefect
    from tasks.self_test import changes, is_sound, result

    given = strictly(overrides, strict)
    prepared = prepare(config, [*given, *changes(comparisons)], wiring=wiring)
    if prepared.planner.complete:
        found = result(prepared.store, prepared.reused.refs["self_test"])
    else:
        with local_prefect(prepared.store.root):
            from flows.self_test import self_test as flow

            found = flow(prepared.experiment.config, comparisons=comparisons)
    console.table(_rows(found))
    console.out(f"the same noise: {found['equal']} of {found['drawn_again']} pictures equal, bit for bit")
    wrong = [each for each in found["comparisons"] if each["outcome"] in ("better", "worse", "mixed")]
    console.out(f"other noise: {len(wrong)} of {len(found['comparisons'])} comparisons found a difference")
    if not is_sound(found):
        raise typer.Exit(EXIT_CODE_OF_VERDICT["reject"])


def _rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for number, comparison in enumerate(found["comparisons"], start=1):
        for metric in comparison["judged"]:
            facts = metric["facts"]
            p = metric["p_holm"] if metric["primary"] else metric["p"]
            rows.append((
                f"{number}",
                facts["title"] + ("" if metric["primary"] else " (exploratory)"),
                f"{metric['delta']:+.{facts['decimals']}f}",
                "" if p is None else f"p {p:.3f}",
                metric["outcome"].replace("_", " "),
            ))  # fmt: skip
    return rows
