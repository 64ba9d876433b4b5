"""The compose file and image: nothing is open to others, no secret is in them, and what they run exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """As they are once `<<` has been merged, which compose and not YAML 1.2 does."""
    from ruamel.yaml import YAML

    loader = YAML(typ="rt")
    return {name: dict(service) for name, service in loader.load(TEXT)["services"].items()}


def test_every_port_is_this_machines_own(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 2 and all(port.startswith("127.0.0.1:") for port in ports)


def test_secrets_come_from_a_file_that_is_not_committed(services: dict[str, dict[str, Any]]) -> None:
    example = dict(
        line.split("=", 1)
        for line in (ROOT / "compose.env.example").read_text().splitlines()
        if line[:1] not in ("#", "")
    )
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    assert used - set(example) == {"SDXL_FLOWS_IMAGE", "PORT", "VIEW_PORT"} and set(example) <= used
    assert {name for name, value in example.items() if not value} == {"POSTGRES_PASSWORD", "PREFECT_AUTH", "HF_TOKEN"}
    assert "compose.env" in (ROOT / ".gitignore").read_text().split()
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|AUTH|TOKEN", name) or value.startswith("${")


def test_a_worker_never_knows_the_databases_password(services: dict[str, dict[str, Any]]) -> None:
    """Prefect hands a worker's own settings on to every run."""
    for name in ("worker", "deploy", "view"):
        assert not any("DATABASE" in variable for variable in services[name].get("environment", {}))


def test_the_server_and_its_leases_outlive_a_restart(services: dict[str, dict[str, Any]]) -> None:
    assert services["server"]["environment"]["PREFECT_HOME"] == "/prefect"
    assert "prefect:/prefect" in services["server"]["volumes"]
    assert (
        'lease_storage = "prefect.server.concurrency.lease_storage.filesystem"' in (ROOT / "prefect.toml").read_text()
    )


def test_what_is_copied_into_the_image_is_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    assert copied == sent and all((ROOT / name).exists() for name in sent)


def test_the_images_extras_are_the_projects() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [extras] = re.findall(r'ARG EXTRAS="([^"]+)"', (ROOT / "Dockerfile").read_text())
    assert set(extras.split()) <= set(project["optional-dependencies"])


def test_the_image_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER flows"]
    assert all(":" in line.partition("=")[2] for line in lines if line.startswith("ARG CUDA_IMAGE"))
