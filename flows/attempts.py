"""A limit to how often a run that crashed is run again by itself."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.errors import ConfigError

MOST_CRASHES = 3
"""In a row, of one flow run. The automation that runs it again knows no limit."""


class CrashesTooOften(ConfigError):
    """Whatever ends the process would do so again; a person has to look."""


def refuse_after_crashes(most: int = MOST_CRASHES) -> None:
    """Called first in a flow. Does nothing where no deployment runs it, as nothing runs it again there.

    A run that is refused has failed; started by hand after that (`prefect flow-run retry`), it counts anew.

    Raises:
        CrashesTooOften: this flow run has crashed more than `most` times since it last ended in any other way.
    """
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    if run is None or run.deployment_id is None or run.run_count < most:
        return
    states = get_client(sync_client=True).read_flow_run_states(run.id)
    crashes = crashes_in_a_row(state.type.value for state in sorted(states, key=lambda state: state.timestamp))
    if crashes > most:
        raise CrashesTooOften(
            f"this run's process has died {crashes} times, which may be want of memory, a full disk or a fault of a "
            f"device: see the lines before each end. `prefect flow-run retry {run.id}` goes on where it was"
        )


def crashes_in_a_row(types: Iterable[str]) -> int:
    """How many CRASHED came after the last state that ended the run in another way; types from first to last."""
    count = 0
    for kind in types:
        if kind == "CRASHED":
            count += 1
        elif kind in ("FAILED", "COMPLETED", "CANCELLED"):
            count = 0
    return count
