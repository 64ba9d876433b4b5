"""The command `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from flows import console
from flows.cli_runs import Overrides

if TYPE_CHECKING:
    from flows.sweeping import Sweeping
    from tasks.plan import Planner
    from tasks.runs import Recorder
    from tasks.sweeps.order import Checked, Order

Configs = Annotated[
    list[Path],
    typer.Argument(metavar="CONFIG...", help="YAML files, one a method; all are judged as the first one says."),
]
Grid = Annotated[
    list[str] | None,
    typer.Option("--grid", metavar="KEY=VALUE,VALUE", help="A setting, and the values it takes. Repeatable."),
]
Trials = Annotated[
    int | None,
    typer.Option("--optuna", metavar="TRIALS", min=2, help="In place of a grid, search by so many trainings in all."),
]
Space = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="KEY=RANGE",
        help="With --optuna, what is searched: 4,8,16 or 100..400 or log:1e-5..1e-3. Repeatable.",
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(metavar="METRIC", help="With --optuna, what is to improve; default: the first primary metric."),
]


def sweep(
    configs: Configs,
    grid: Grid = None,
    optuna: Trials = None,
    searched: Space = None,
    objective: Objective = None,
    search_seed: Annotated[int, typer.Option(min=0, help="Of what --optuna proposes.")] = 0,
    parallel: Annotated[
        int | None,
        typer.Option(min=1, help="So many trainings at once; default: as many as there are GPUs for, one on CPU."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do, and do nothing.")] = False,
    overrides: Overrides = None,
) -> None:
    """Train every combination of settings, and judge all of them in one report, with what the seed alone changes.

    What the trainings have in common is prepared once. Each training is the one that `run` with the same settings
    makes or uses. Killed, it goes on when you run it again. A variant that cannot be trained is told in the report.

    Exit codes: as of `run`; 1 if a variant could not be trained.

    Examples: `sdxl-flows sweep my.yaml --grid training.seed=1,2,3 --grid training.adapter.rank=4,16`,
    `sdxl-flows sweep lora.yaml dora.yaml --grid training.seed=1,2,3 --dry-run`,
    `sdxl-flows sweep my.yaml --optuna 20 --search training.learning_rate=log:1e-5..1e-3 --search
    training.adapter.rank=4,8,16`
    """
    from tasks.sweeps.order import check, command_of

    order = _order(configs, grid, (optuna, searched, objective, search_seed), parallel, overrides)
    checked = check(order)
    planned = _Planned(checked, command_of(order))
    if dry_run:
        planned.show()
        return
    _carry_out(planned, order)


def _order(
    configs: list[Path],
    grid: list[str] | None,
    search: tuple[int | None, list[str] | None, str | None, int],
    parallel: int | None,
    overrides: list[str] | None,
) -> Order:
    from tasks.errors import ConfigError
    from tasks.sweeps.grid import parse_grid
    from tasks.sweeps.order import Order
    from tasks.sweeps.search import SearchConfig, parse_space
    from tasks.sweeps.variants import Asked

    trials, searched, objective, seed = search
    found = None
    if trials is not None:
        if not searched:
            raise ConfigError("--optuna: nothing to search; give --search training.learning_rate=log:1e-5..1e-3")
        found = SearchConfig(trials=trials, space=parse_space(searched), objective=objective, seed=seed)
    elif searched or objective or seed:
        raise ConfigError("--search, --objective, --search-seed: go with --optuna TRIALS")
    return Order(Asked(tuple(configs), tuple(overrides or ())), parse_grid(grid or []), found, parallel)


class _Planned:
    """What a sweep would do."""

    def __init__(self, checked: Checked, command: str) -> None:
        from flows.sweeping import Sweeping
        from tasks.plan import Planner
        from tasks.runs import Recorder

        self.checked, self.command = checked, command
        self.planner: Planner = Planner(checked.store)
        self.reused: Recorder = Recorder(self.planner)
        self.sweeping: Sweeping = Sweeping(checked, self.reused, command)
        self.sweeping.plan(checked.prepared)
        self.planner.require_devices(checked.judging.runtime.device, checked.judging.runtime.elsewhere)

    @property
    def complete(self) -> bool:
        return self.checked.order.search is None and self.planner.complete

    def show(self) -> None:
        from tasks.sweeps.estimate import of_sweep

        console.table([(stage.label, stage.action, stage.why) for stage in self.planner.stages])
        for line in of_sweep(self.checked, self.planner, self.sweeping.calls):
            console.out(line)


def _carry_out(planned: _Planned, order: Order) -> None:
    from tasks.errors import EXIT_CODE_OF_VERDICT, EXIT_CODES, TrainerFailed
    from tasks.prefect_home import local_prefect
    from tasks.runs import finish_run, verdict_of

    store, refs = planned.checked.store, planned.reused.refs
    failed: dict[str, str] = {}
    if planned.complete:
        place, verdict = str(finish_run(store, planned.checked.name, planned.command, refs)), verdict_of(store, refs)
    else:
        with local_prefect(store.root):
            from flows.sweep import sweep as flow

            asked = order.asked
            parameters: dict[str, Any] = {"grid": dict(order.grid), "optuna": order.search, "parallel": order.parallel}
            done = cast(Any, flow)(
                list(asked.configs), overrides=list(asked.overrides), command=planned.command, **parameters
            )
        place, verdict, failed = done["report"], done["verdict"], done["failed"]
    for name, reason in failed.items():
        console.out(f"not trained: {name}: {reason}")
    console.out(f"report: {place}")
    if verdict is not None:
        console.out(f"verdict: {verdict}")
    if failed:
        raise typer.Exit(EXIT_CODES[TrainerFailed])
    if verdict is not None:
        raise typer.Exit(EXIT_CODE_OF_VERDICT[verdict])
