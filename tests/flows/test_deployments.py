"""Deployments: what prefect.yaml names is there and is accepted, and what a server makes of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.flows.conftest import REPOSITORY

DEPLOYED = YAML(typ="safe").load((REPOSITORY / "prefect.yaml").read_text())
EXPECTED = {
    *(f"finetune/{name}" for name in ("lora", "dreambooth", "full", "dpo", "sft", "miniature")),
    *(f"retrain/{name}" for name in ("miniature", "sdxl")),
    *(f"{name}/{name}" for name in ("evaluate", "compare", "cache-only", "class-images", "relabel", "report", "sweep")),
    "artifacts-gc/weekly",
}
ASKED = {"compare": {"models": ["base", "kestrel"]}}
"""What whoever starts a run has to say."""
SECTIONS = {"name", "pull", "definitions", "deployments"}


def flow_of(deployment: dict[str, Any]) -> Any:
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_nothing_but_deployments_is_in_it() -> None:
    assert set(DEPLOYED) == SECTIONS
    assert len(DEPLOYED["deployments"]) == len(EXPECTED)


def test_every_deployment_is_there() -> None:
    assert {f"{flow_of(one).name}/{one['name']}" for one in DEPLOYED["deployments"]} == EXPECTED


@pytest.mark.parametrize("deployment", DEPLOYED["deployments"], ids=lambda one: f"{one['entrypoint']}-{one['name']}")
def test_a_deployment_is_one_that_runs(deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its flow takes its parameters, its configuration is there, and no schedule runs before somebody wants it to."""
    monkeypatch.chdir(REPOSITORY)
    flow_of(deployment).validate_parameters(ASKED.get(deployment["name"], {}) | dict(deployment["parameters"]))
    config = deployment["parameters"].get("config")
    assert config is None or Path(config).is_file()
    assert all(Path(one).is_file() for one in deployment["parameters"].get("configs", []))
    assert "sdxl-flows" in deployment["tags"], "automations go by it"
    assert not any(schedule["active"] for schedule in deployment.get("schedules", []))
    assert not any(trigger["enabled"] for trigger in deployment.get("triggers", []))
    assert deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_automations_are_made_once_and_left_alone(prefect_api: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is made anew forgets which runs it watches, and one that somebody has disabled stays so."""
    from prefect.client.orchestration import SyncPrefectClient, get_client

    from tasks.serving.automations import automations, ensure_automations

    with get_client(sync_client=True) as client:
        names = ensure_automations(client)
        disabled = client.read_automations_by_name(names[2])[0]
        client.update_automation(disabled.id, automations()[2].model_copy(update={"enabled": False}))
        before = {one.name: one for one in client.read_automations()}
        with monkeypatch.context() as patch:
            patch.setattr(SyncPrefectClient, "update_automation", lambda *_: pytest.fail("touched"))
            assert ensure_automations(client) == names
        after = {one.name: one for one in client.read_automations()}
        assert {one.id for one in after.values()} == {one.id for one in before.values()}
        assert [after[name].enabled for name in names] == [True, True, False]
        changed = automations()[2].model_copy(update={"description": "of an earlier version", "enabled": False})
        client.update_automation(disabled.id, changed)
        ensure_automations(client)
        [mended] = client.read_automations_by_name(names[2])
        assert mended.description == automations()[2].description and not mended.enabled
