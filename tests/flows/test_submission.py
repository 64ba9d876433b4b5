"""A run with wrong parameters is refused when it is asked for, by the server, with the parameter's path."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api")]

FLOWS = {
    "finetune": {"config": "configs/miniature/lora.yaml"},
    "evaluate": {"config": "configs/miniature/lora.yaml"},
    "report": {"config": "configs/miniature/lora.yaml"},
    "relabel": {"config": "configs/miniature/dpo-feedback.yaml"},
    "cache_only": {"config": "configs/miniature/lora.yaml"},
    "class_images": {"config": "configs/miniature/dreambooth.yaml"},
    "compare": {"models": ["base", "kestrel"]},
}
REFUSED = {
    '{"settings": {"training": {"learning_rate": -1}}}': "'settings.training.learning_rate'. Failure reason: -1 is",
    '{"settings": {"training": {"learning_rat": 1}}}': "'settings.training'. Failure reason: Additional properties",
    '{"settings": {"training": {"max_steps": "many"}}}': "'settings.training.max_steps'. Failure reason: 'many'",
    '{"settings": {"training": {"adapter": {"kind": "lorra"}}}}': "'settings.training.adapter.kind'",
}


def submit(name: str, parameters: dict[str, Any]) -> str:
    """As `prefect deployment run` does; returns what the server says against it."""
    import importlib

    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    with get_client(sync_client=True) as client:
        deployed = client.create_deployment(
            flow_id=client.create_flow(flow),
            name="tested",
            parameters=FLOWS.get(name, {}),
            parameter_openapi_schema=flow.parameters.model_dump_for_openapi(),
            enforce_parameter_schema=True,
        )
        try:
            client.create_flow_run_from_deployment(deployed, parameters=parameters)
        except PrefectHTTPStatusError as refusal:
            assert refusal.response.status_code == 409
            return str(refusal.response.json()["detail"])
    return ""


@pytest.mark.parametrize("name", FLOWS)
def test_every_flow_with_settings_refuses_a_wrong_one(name: str) -> None:
    assert submit(name, {"settings": {"training": {"max_steps": 3}}}) == ""
    assert "'settings.training.max_steps'" in submit(name, {"settings": {"training": {"max_steps": 0}}})


@pytest.mark.parametrize("given", REFUSED)
def test_the_path_is_named(given: str) -> None:
    assert REFUSED[given] in submit("finetune", json.loads(given))


def test_other_parameters_are_typed_too() -> None:
    assert "'models'. Failure reason: ['base'] is too short" in submit("compare", {"models": ["base"]})
    assert "'prompts'" in submit("compare", {"prompts": 0})
    assert "'config'. Failure reason" in submit("finetune", {"config": {"name": "a"}})
    assert "'retention.runs'" in submit("artifacts_gc", {"retention": {"runs": -1}})
    assert "'retention'" in submit("artifacts_gc", {"retention": {"run": 1}})
