"""Automations: what the server does by itself about runs whose process is gone."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

TAG = "sdxl-flows"
"""Of every deployment of ours: runs of others on the same server are none of our business."""
HEARTBEAT_S = 30
_SILENT_S = 3 * HEARTBEAT_S
_NEVER_BEGUN = timedelta(minutes=30)
"""A container may have to wait for its node and its image."""
MOST_RUNS = 20
"""Of one flow run. Flows refuse much earlier, for which they have to begin: `flows.attempts`."""


def automations() -> list[AutomationCore]:
    """What `ensure_automations` sees to, each known by its name."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    of_ours = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}

    def silence(after: str, within: timedelta) -> EventTrigger:
        return EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=of_ours,
            after={after},
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        )

    runs = [str(count) for count in range(1, MOST_RUNS)]
    crash = EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*", "prefect.run-count": runs},
        match_related=of_ours,
        expect={"prefect.flow-run.Crashed"},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )

    again = ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message="begun again by itself")
    return [
        AutomationCore(
            name=f"{TAG}: silent runs have crashed",
            description=f"A run says every {HEARTBEAT_S} s that it lives. One that is silent for three times that is "
            "dead, with its machine or its worker.",
            trigger=silence("prefect.flow-run.heartbeat", timedelta(seconds=_SILENT_S)),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED, name="Crashed", message=f"no sign of life for {_SILENT_S} s"
                )
            ],
        ),
        AutomationCore(
            name=f"{TAG}: crashed runs begin again",
            description="They reuse what is in the store and resume training. Flows themselves refuse to after three "
            "crashes. What crashed before it ran, such as a deployment whose code does not import, stays crashed.",
            trigger=crash,
            actions=[again],
        ),
        AutomationCore(
            name=f"{TAG}: runs that never began are scheduled again",
            description="Their worker was lost before it could start them.",
            trigger=silence("prefect.flow-run.Pending", _NEVER_BEGUN),
            actions=[again],
        ),
    ]


def ensure_automations(client: SyncPrefectClient) -> list[str]:
    """Create what is missing and bring what is there up to date; one that was disabled stays so. Returns the names.

    What is as it should be is not touched: the server would forget which runs it is listening for.
    """
    wanted = automations()
    for automation in wanted:
        present = client.read_automations_by_name(automation.name)
        for spare in present[1:]:
            client.delete_automation(spare.id)
        if not present:
            client.create_automation(automation)
        elif _essence(present[0]) != _essence(automation):
            client.update_automation(present[0].id, automation.model_copy(update={"enabled": present[0].enabled}))
    return [automation.name for automation in wanted]


def _essence(automation: AutomationCore) -> object:
    """What it does, without what the server numbers."""
    return _without_ids(automation.model_dump(mode="json", include={"description", "trigger", "actions"}))


def _without_ids(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_ids(inner) for name, inner in value.items() if name != "id"}
    if isinstance(value, list):
        items = [_without_ids(inner) for inner in value]
        return sorted(items) if all(isinstance(item, str) for item in items) else items  # type: ignore[type-var]
    return value
