"""The command `retrain`."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from flows import console
from flows.cli_runs import ConfigFile, Overrides


def retrain(
    config: ConfigFile,
    overrides: Overrides = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train and judge although the same was judged before.")
    ] = False,
) -> None:
    """Train on the data as it is now and, if the result is proven better, put it into production.

    It ends at once where data and settings are those of an earlier candidate. A candidate has to pass the gates of
    `evaluation.gates` against the base and, if the model has a version in production, against that one too; else it is
    kept with its reports and changes nothing. `models` shows, watches and rolls back what is in production.

    Exit codes: 0 promoted, or nothing new; 3 rejected, 4 inconclusive; others as of `run`.

    Example: `sdxl-flows retrain configs/miniature/retrain.yaml`
    """
    from flows.reproduction import made_by
    from tasks.errors import EXIT_CODE_OF_VERDICT
    from tasks.prefect_home import local_prefect
    from tasks.retraining import OF_VERDICT, check_retraining, nothing_new
    from tasks.yaml_config import read_config

    settled = read_config(config, overrides or [])
    check_retraining(settled)
    command = made_by(config, overrides or [], settled, (), (), "retrain")
    store = settled.runtime.open_store()
    if not force and (found := nothing_new(settled, store, command)) is not None:
        console.out(f"nothing new: {found.reason}")
        return
    with local_prefect(store.root):
        from flows.retrain import retrain as flow

        done = cast(Any, flow)(settled, force=force, command=command)
    for report in done["reports"]:
        console.out(f"report: {report}")
    production = "nothing" if done["production"] is None else f"version {done['production']}"
    console.out(f"{done['model']}: {done['outcome']} ({done['reason']}); in production: {production}")
    for verdict, outcome in OF_VERDICT.items():
        if outcome == done["outcome"]:
            raise typer.Exit(EXIT_CODE_OF_VERDICT[verdict])
