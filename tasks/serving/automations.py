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
_LONGEST_RUN = timedelta(days=365)


def automations() -> list[AutomationCore]:
    """What `ensure_automations` sees to, each known by its name."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    def trigger(after: str, expect: str, posture: Posture, within: timedelta) -> EventTrigger:
        return EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
            after={after},
            expect={expect},
            for_each={"prefect.resource.id"},
            posture=posture,
            threshold=1,
            within=within,
        )

    again = ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message="begun again by itself")
    return [
        AutomationCore(
            name=f"{TAG}: silent runs have crashed",
            description=f"A run says every {HEARTBEAT_S} s that it lives. One that is silent for three times that is "
            "dead, with its machine or its worker.",
            trigger=trigger(
                "prefect.flow-run.heartbeat", "prefect.flow-run.*", Posture.Proactive, timedelta(seconds=_SILENT_S)
            ),
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
            # a trigger with `after` fires once for each time that the run has begun
            trigger=trigger("prefect.flow-run.Running", "prefect.flow-run.Crashed", Posture.Reactive, _LONGEST_RUN),
            actions=[again],
        ),
        AutomationCore(
            name=f"{TAG}: runs that never began are scheduled again",
            description="Their worker was lost before it could start them.",
            trigger=trigger("prefect.flow-run.Pending", "prefect.flow-run.*", Posture.Proactive, _NEVER_BEGUN),
            actions=[again],
        ),
    ]


def ensure_automations(client: SyncPrefectClient) -> list[str]:
    """Create what is missing and bring what is there up to date; one that was disabled stays so. Returns the names."""
    wanted = automations()
    for automation in wanted:
        present = client.read_automations_by_name(automation.name)
        for spare in present[1:]:
            client.delete_automation(spare.id)
        if not present:
            client.create_automation(automation)
        else:
            client.update_automation(present[0].id, automation.model_copy(update={"enabled": present[0].enabled}))
    return [automation.name for automation in wanted]
