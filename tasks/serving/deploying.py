"""Work pool, deployments of prefect.yaml and automations, put to the server that is configured. Again does no harm."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import ConfigError
from tasks.serving.automations import ensure_automations

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import DeploymentSchedule

POOL_TYPES = ("process", "docker", "kubernetes", "ecs")
DEPLOYMENTS = "prefect.yaml"


def deploy(folder: Path, pool: str, kind: str, template: dict[str, Any] | None, local: bool) -> list[str]:
    """Returns the automations' names; the deployments are told by Prefect.

    Args:
        folder: of the project, as the workers see it; prefect.yaml lies in it here.
        kind: of the work pool, where it has to be made.
        template: the pool's base job template, if it is not the default of its kind.
        local: runs start in the folder with this very Python, which saves them a process.

    Raises:
        ConfigError: no server is configured, or it does not answer; there is no prefect.yaml, or it is not accepted.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise ConfigError("PREFECT_API_URL: no server is named; `sdxl-flows serve` starts one and deploys to it")
    if not Path(DEPLOYMENTS).is_file():
        raise ConfigError(f"there is no {DEPLOYMENTS} here; deploy in the project's folder")
    with get_client(sync_client=True) as client:
        if (problem := client.api_healthcheck()) is not None:
            raise ConfigError(f"PREFECT_API_URL: the server {PREFECT_API_URL.value()} does not answer ({problem})")
        _ensure_pool(client, pool, kind, template, folder if local else None)
        with _switches_kept(client):
            _apply_deployments(folder, pool)
        return ensure_automations(client)


def _ensure_pool(
    client: SyncPrefectClient, name: str, kind: str, template: dict[str, Any] | None, local: Path | None
) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        present = client.read_work_pool(name)
    except ObjectNotFound:
        if template is None and kind == ProcessWorker.type:
            template = ProcessWorker.get_default_base_job_template()
        created = WorkPoolCreate(name=name, type=kind, base_job_template=template or {})
        present = client.create_work_pool(created)
    else:
        if template is not None:
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
            present = client.read_work_pool(name)
    if local is not None:
        if present.type != ProcessWorker.type:
            raise ConfigError(f"--pool {name}: is of type {present.type}; `--local` needs one of type process")
        changed = _started_here(present.base_job_template, local)
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=changed))


def _started_here(template: dict[str, Any], folder: Path) -> dict[str, Any]:
    """With a command of its own, Prefect starts no other process to find out the folder of a run."""
    import copy

    changed = copy.deepcopy(template)
    variables = changed["variables"]["properties"]
    variables["command"]["default"] = f"{sys.executable} -m prefect.engine"
    variables["working_dir"]["default"] = str(folder)
    return changed


@contextmanager
def _switches_kept(client: SyncPrefectClient) -> Iterator[None]:
    """Schedules and triggers stay switched on or off as somebody left them; Prefect makes them anew, as in the file."""
    schedules = {(of, one.slug or ""): one.active for of, one in _schedules(client)}
    triggers = {one.name: one.enabled for one in client.read_automations()}
    yield
    for of, schedule in _schedules(client):
        if schedules.get((of, schedule.slug or ""), schedule.active) != schedule.active:
            client.update_deployment_schedule(of, schedule.id, active=not schedule.active)
    for trigger in client.read_automations():
        if triggers.get(trigger.name, trigger.enabled) != trigger.enabled:
            (client.resume_automation if not trigger.enabled else client.pause_automation)(trigger.id)


def _schedules(client: SyncPrefectClient) -> Iterator[tuple[UUID, DeploymentSchedule]]:
    for deployment in client.read_deployments(limit=200):
        for schedule in deployment.schedules:
            yield deployment.id, schedule


def _apply_deployments(folder: Path, pool: str) -> None:
    environment = {**os.environ, "SDXL_FLOWS_HOME": str(folder), "SDXL_FLOWS_POOL": pool}
    line = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", DEPLOYMENTS]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    # Prefect ends with 0 where one of several deployments cannot be made
    if done.returncode or "Skipping" in done.stdout:
        raise ConfigError(f"{DEPLOYMENTS} is not accepted:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
