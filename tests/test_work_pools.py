"""Work-pool templates: they ask for GPUs and hold no secret, and Prefect's own workers make jobs of them."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

POOLS = Path(__file__).parent.parent / "configs" / "work-pools"
KINDS = ("kubernetes", "ecs", "docker")
Json = dict[str, Any]


def template(kind: str) -> Json:
    loaded: Json = json.loads((POOLS / f"{kind}.json").read_text())
    return loaded


def strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for entry in value.values() for text in strings(entry)]
    if isinstance(value, list):
        return [text for entry in value for text in strings(entry)]
    return [value] if isinstance(value, str) else []


def test_there_is_no_other_template() -> None:
    assert sorted(path.stem for path in POOLS.iterdir()) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_variable_is_declared_described_and_used(kind: str) -> None:
    pool = template(kind)
    used = {name for text in strings(pool["job_configuration"]) for name in re.findall(r"{{ (\w+) }}", text)}
    declared = pool["variables"]["properties"]
    assert used == set(declared)
    assert all(declared[name].get("description") for name in declared)
    assert set(pool["variables"].get("required", ())) <= used


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_lies_in_a_template(kind: str) -> None:
    pool = template(kind)
    defaults = [variable.get("default") for variable in pool["variables"]["properties"].values()]
    assert not re.search(r"AKIA|hf_[A-Za-z0-9]{8}|:[^:/@ ]+@", json.dumps([defaults, pool["job_configuration"]]))
    hidden = [name for name in pool["variables"]["properties"] if re.search("arn|credential|secrets$", name)]
    assert all(not pool["variables"]["properties"][name].get("default") for name in hidden)


def test_kubernetes_asks_for_gpus_shared_memory_and_a_claim() -> None:
    job = template("kubernetes")["job_configuration"]["job_manifest"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    assert container["envFrom"] == [{"secretRef": {"name": "{{ secret_name }}", "optional": True}}]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert [(mount["name"], mount["mountPath"]) for mount in container["volumeMounts"]] == [
        ("data", "/data"),
        ("data", "/app/runs"),
        ("shm", "/dev/shm"),
    ]
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "{{ shm_size }}"}
    assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "{{ store_claim }}"}
    assert pod["securityContext"]["runAsNonRoot"] and pod["restartPolicy"] == "Never"
    # these are of a Job; a pod that had them would be refused by a strict API server
    assert job["completions"] == job["parallelism"] == 1 and not {"completions", "parallelism"} & set(pod)


def test_ecs_asks_for_gpus_of_instances() -> None:
    pool = template("ecs")
    task = pool["job_configuration"]["task_definition"]
    [container] = task["containerDefinitions"]
    assert container["resourceRequirements"] == [{"type": "GPU", "value": "{{ gpus }}"}]
    assert pool["variables"]["properties"]["launch_type"]["default"] == "EC2"
    assert task["requiresCompatibilities"] == ["EC2"]
    assert (
        container["mountPoints"][0]["containerPath"] == "/data" and container["linuxParameters"]["initProcessEnabled"]
    )


def test_docker_asks_for_gpus() -> None:
    made = template("docker")["job_configuration"]["container_create_kwargs"]
    assert made["device_requests"] == [{"count": "{{ gpus }}", "capabilities": [["gpu"]]}]
    assert made["init"] is True and made["shm_size"] == "{{ shm_size }}"


def worker(kind: str) -> Any:
    """Prefect's worker class; the packages are the extras of this project that are called like the pool's type."""
    package, module, name = {
        "kubernetes": ("prefect_kubernetes", "prefect_kubernetes.worker", "KubernetesWorker"),
        "ecs": ("prefect_aws", "prefect_aws.workers", "ECSWorker"),
        "docker": ("prefect_docker", "prefect_docker.worker", "DockerWorker"),
    }[kind]
    pytest.importorskip(package, reason=f"the extra `{kind}` has it")
    return getattr(importlib.import_module(module), name)


def rendered(kind: str, **values: Any) -> Any:
    """What a worker makes of a template and a deployment's job variables."""
    made = worker(kind).job_configuration.from_template_and_values(template(kind), values, client=object())
    return asyncio.run(made)


@pytest.mark.parametrize("kind", KINDS)
def test_no_variable_of_prefects_own_template_is_lost(kind: str) -> None:
    theirs = set(worker(kind).get_default_base_job_template()["variables"]["properties"])
    assert theirs - set(template(kind)["variables"]["properties"]) <= {
        "container_create_kwargs"
    }  # ours, with GPUs in it


def test_kubernetes_worker_renders_it() -> None:
    manifest = rendered(
        "kubernetes", gpus=2, env={"A": "b"}, node_selector={"gpu": "h100"}, image="registry/x:1"
    ).job_manifest
    pod = manifest["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert (container["image"], pod["nodeSelector"]) == ("registry/x:1", {"gpu": "h100"})
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["volumes"][1]["emptyDir"]["sizeLimit"] == "8Gi"
    assert "{{" not in json.dumps(manifest)


def test_ecs_worker_renders_it() -> None:
    made = rendered("ecs", gpus="4", store_file_system="fs-0123", secrets=[{"name": "HF_TOKEN", "valueFrom": "arn:x"}])
    [container] = made.task_definition["containerDefinitions"]
    assert container["resourceRequirements"] == [{"type": "GPU", "value": "4"}]
    assert container["secrets"] == [{"name": "HF_TOKEN", "valueFrom": "arn:x"}]
    assert made.task_definition["volumes"][0]["efsVolumeConfiguration"]["fileSystemId"] == "fs-0123"
    assert made.task_run_request["launchType"] == "EC2" and container["linuxParameters"]["sharedMemorySize"] == 8192
    assert "{{" not in json.dumps([made.task_definition, made.task_run_request])
    # numbers of Prefect's own template, which AWS spells as text
    assert not _refused_by_aws(made.task_definition | {"family": "f", "cpu": "4096", "memory": "24576"})


def _refused_by_aws(task_definition: Json) -> str:
    """What AWS's own description of the call says is wrong with its parameters."""
    from botocore.session import get_session
    from botocore.validate import ParamValidator

    call = get_session().get_service_model("ecs").operation_model("RegisterTaskDefinition")
    report: str = ParamValidator().validate(task_definition, call.input_shape).generate_report()
    return report


def test_docker_worker_renders_it() -> None:
    made = rendered("docker", gpus=1)
    assert made.container_create_kwargs["device_requests"] == [{"count": 1, "capabilities": [["gpu"]]}]
    assert made.volumes == ["sdxl-flows-data:/data"] and made.container_create_kwargs["shm_size"] == "8g"
