"""A limit to how often a run that crashed is run again by itself."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tasks.errors import ConfigError

VARIABLE = "SDXL_FLOWS_MOST_CRASHES"
MOST_CRASHES = 3
"""In a row, of one flow run, unless the environment says otherwise. The automation knows a limit of twenty runs."""
_ASKED_TO_STOP = "termination signal"
"""In Prefect's words for a process that was ended by SIGTERM: its worker was stopped, or its machine is wanted back."""


class CrashesTooOften(ConfigError):
    """Whatever ends the process would do so again; a person has to look."""


def refuse_after_crashes() -> None:
    """Called first in a flow. Does nothing where no deployment runs it, as nothing runs it again there.

    A run that is refused has failed; started by hand after that (`prefect flow-run retry`), it counts anew.

    Raises:
        CrashesTooOften: this flow run has crashed too often since it last ended in any other way.
    """
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    most = int(os.environ.get(VARIABLE) or MOST_CRASHES)
    if run is None or run.deployment_id is None or run.run_count <= most:
        return
    with get_client(sync_client=True) as client:
        states = sorted(client.read_flow_run_states(run.id), key=lambda state: state.timestamp)
    crashes = crashes_in_a_row((state.type.value, state.message or "") for state in states)
    if crashes >= most:
        raise CrashesTooOften(
            f"this run's process has died {crashes} times, which may be want of memory, a full disk or a fault of a "
            f"device: see the lines before each end. `prefect flow-run retry {run.id}` goes on where it was; "
            f"{VARIABLE} says how many times are too many"
        )


def crashes_in_a_row(states: Iterable[tuple[str, str]]) -> int:
    """How many crashes came after the last state that ended the run in another way.

    `states`: their types and messages, from first to last. Processes that were asked to stop have not crashed.
    """
    count = 0
    for kind, message in states:
        if kind == "CRASHED" and _ASKED_TO_STOP not in message:
            count += 1
        elif kind in ("FAILED", "COMPLETED", "CANCELLED"):
            count = 0
    return count
