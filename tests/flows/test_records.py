"""Prefect's records where machines share a store: each machine's own, or one block for all; neither holds a secret."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tasks.config import RuntimeConfig
from tasks.policies import prefect_runner
from tasks.shared.objects import open_objects
from tasks.stage import Call
from tasks.store import ArtifactStore, StorePlace
from tests.buckets import new_url, s3_server
from tests.tasks.conftest import TEXT

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def s3_url(tmp_path: Path) -> Iterator[str]:
    with s3_server():
        yield new_url("s3", tmp_path)


class Lost(Exception):
    """Of the machine that began."""


def goes_on_elsewhere(url: str, folder: Path, settings: dict[Any, str]) -> tuple[list[str], str]:
    """A flow of two stages whose machine is lost between them, and which another one goes on with, that has a folder of
    its own; returns the names of all records in the machines' folders, and how the flow ended."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.settings import PREFECT_RESULTS_LOCAL_STORAGE_PATH, temporary_settings
    from prefect.states import Scheduled

    from tasks.stage import materialise

    built: list[str] = []

    @flow(name="two", result_serializer="json")
    def two(machine: str) -> str:
        store = ArtifactStore.at(StorePlace(str(folder / machine), "auto", url))
        run = prefect_runner(store, RuntimeConfig(), "two")
        first = run(Call(TEXT, "first", {"text": "one"}, {}))
        built.append(machine)
        if machine == "lost":
            raise Lost
        return str(run(Call(TEXT, "second", {"text": "two"}, {"first": first})))

    def on(machine: str) -> Any:
        return temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: str(folder / machine / "records"), **settings})

    with on("lost"):
        state = two("lost", return_state=True)
    assert state.is_failed()
    client = get_client(sync_client=True)
    client.set_flow_run_state(state.state_details.flow_run_id, Scheduled(name="AwaitingRetry"), force=True)
    again = client.read_flow_run(state.state_details.flow_run_id)
    with on("other"):
        done = run_flow(two, flow_run=again, parameters={"machine": "other"}, return_type="state")
    assert built == ["lost", "other"]
    other = ArtifactStore.at(StorePlace(str(folder / "other"), "auto", url))
    made = {manifest.label: manifest for manifest in other.manifests("text")}
    assert set(made) == {"first", "second"} and done.is_completed()
    assert materialise(Call(TEXT, "first", {"text": "one"}, {}), other, "cpu") == made["first"].ref
    return sorted(path.name for path in folder.glob("*/records/text-*")), str(done.name)


def test_a_run_goes_on_where_the_records_of_another_machine_are_missing(s3_url: str, tmp_path: Path) -> None:
    """The artifacts are there, which is what counts."""
    records, outcome = goes_on_elsewhere(s3_url, tmp_path, {})
    assert outcome == "Completed" and len(records) == 3
    assert not open_objects(s3_url).sizes("prefect")


@pytest.mark.ci
def test_a_block_without_credentials_shares_them(s3_url: str, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.filesystems import RemoteFileSystem
    from prefect.settings import PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK

    RemoteFileSystem(basepath=f"{s3_url}/prefect/records").save("sdxl-records", overwrite=True)
    block = {PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK: "remote-file-system/sdxl-records"}
    records, outcome = goes_on_elsewhere(s3_url, tmp_path, block)
    assert outcome == "Completed" and records == []
    shared = open_objects(s3_url)
    names = [name for name in shared.sizes("prefect") if "/text-" in name]
    assert len(names) == 2
    contents = b"".join(shared.read_all(shared.sizes("prefect")).values())
    assert b"not-a-secret" not in contents and contents
    stored = get_client(sync_client=True).read_block_document_by_name("sdxl-records", "remote-file-system")
    assert stored.data == {"basepath": f"{s3_url}/prefect/records", "settings": {}}


def test_a_work_pool_takes_credentials_from_a_block() -> None:
    """As docs/operations.md says it: the deployment holds the block's name, and only the worker what is in it."""
    from prefect.blocks.core import Block
    from prefect.client.orchestration import get_client
    from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

    class AwsCredentials(Block):
        """Of the same fields as prefect-aws has, which need not be installed for this."""

        _block_type_name = "AWS Credentials"
        _block_type_slug = "aws-credentials"
        aws_access_key_id: str
        aws_secret_access_key: SecretStr

    AwsCredentials(aws_access_key_id="id", aws_secret_access_key=SecretStr("hush")).save("studio", overwrite=True)
    env = {
        "AWS_ACCESS_KEY_ID": "{{ prefect.blocks.aws-credentials.studio.aws_access_key_id }}",
        "AWS_SECRET_ACCESS_KEY": "{{ prefect.blocks.aws-credentials.studio.aws_secret_access_key }}",
        "SDXL_FLOWS_STORE": "s3://studio/sdxl",
    }

    async def rendered() -> dict[str, str | None]:
        async with get_client() as client:
            template = ProcessWorker.get_default_base_job_template()
            made = await ProcessJobConfiguration.from_template_and_values(template, {"env": env}, client=client)
            return dict(made.env)

    found = asyncio.run(rendered())
    wanted = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hush", "SDXL_FLOWS_STORE": "s3://studio/sdxl"}
    assert {name: found[name] for name in wanted} == wanted
