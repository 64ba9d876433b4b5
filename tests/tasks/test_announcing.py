"""Who is told what is in production, once each; and what happens where the hub does not listen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import RevisionNotFoundError

from sdxl_core.errors import UserError
from tasks import announcing
from tasks.announcing import announce, retag
from tasks.registry import Registry
from tasks.retraining_config import RetrainingConfig
from tasks.store import ArtifactStore
from tests.tasks.test_registry import add

HUB = RetrainingConfig(hub="me/dog")


class Hub:
    """Stands in for the hub's client, of which tests have no server: tags and commits of one repository."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.uploads: list[str] = []
        self.away = False

    def create_repo(self, repository: str, **_: Any) -> str:
        if self.away:
            raise ConnectionError("no route to host")
        return f"https://hub/{repository}"

    def upload_folder(self, *, folder_path: Any, commit_message: str, **_: Any) -> Any:
        self.uploads.append(commit_message)
        return SimpleNamespace(oid=f"commit-{len(self.uploads)}")

    def create_tag(self, repository: str, *, tag: str, revision: str, exist_ok: bool = False) -> None:
        assert exist_ok or tag not in self.tags, "the hub refuses a tag that is there"
        self.tags[tag] = self.tags.get(revision, revision)

    def delete_tag(self, repository: str, *, tag: str) -> None:
        if tag not in self.tags:
            raise RevisionNotFoundError("no such tag", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]
        del self.tags[tag]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub()
    monkeypatch.setenv("HF_TOKEN", "hf_notARealToken")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    return found


@pytest.fixture
def registry(store: ArtifactStore) -> Registry:
    """The first of two versions in production."""
    add(store, "one")
    add(store, "two")
    Registry(store).point("dog", 1, "promoted", expected=None, reason="")
    return Registry(store)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr("prefect.events.emit_event", lambda name, resource, payload: found.append(payload))
    monkeypatch.setattr(announcing, "has_lasting_server", lambda: True)
    return found


def test_everybody_is_told_once(registry: Registry, hub: Hub, events: list[dict[str, Any]]) -> None:
    for _ in range(2):
        announce(registry, "dog", HUB)
    assert [(event["version"], event["reference"]) for event in events] == [(1, "production/dog@1")]
    assert hub.tags == {"v1": "commit-1", "production": "commit-1"} and len(hub.uploads) == 1
    registry.point("dog", 2, "promoted", expected=1, reason="")
    announce(registry, "dog", HUB)
    assert events[-1]["version"] == 2 and events[-1]["before"] == 1
    assert hub.tags == {"v1": "commit-1", "v2": "commit-2", "production": "commit-2"}


def test_a_temporary_server_is_not_told_so_that_the_next_one_is(
    registry: Registry, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "has_lasting_server", lambda: False)
    announce(registry, "dog", RetrainingConfig())
    assert events == []
    monkeypatch.setattr(announcing, "has_lasting_server", lambda: True)
    announce(registry, "dog", RetrainingConfig())
    assert [event["version"] for event in events] == [1]


def test_a_hub_that_is_away_is_named_and_told_next_time(registry: Registry, hub: Hub) -> None:
    hub.away = True
    with pytest.raises(UserError, match=r"not take me/dog: ConnectionError.*models push dog --repo me/dog"):
        announce(registry, "dog", HUB)
    hub.away = False
    announce(registry, "dog", HUB)
    assert hub.tags["production"] == "commit-1"


def test_a_rollback_moves_the_tag_back(registry: Registry, hub: Hub) -> None:
    assert retag(registry, "dog", registry.require("dog")) is None  # never uploaded
    announce(registry, "dog", HUB)
    registry.point("dog", 2, "promoted", expected=1, reason="")
    announce(registry, "dog", HUB)
    registry.point("dog", 1, "rolled back", expected=2, reason="")
    assert retag(registry, "dog", registry.require("dog")) == "me/dog"
    assert hub.tags["production"] == "commit-1" and len(hub.uploads) == 2


def test_the_tag_moves_to_what_was_never_uploaded_as_well(registry: Registry, hub: Hub) -> None:
    announce(registry, "dog", HUB)
    registry.point("dog", 2, "promoted", expected=1, reason="by hand")
    assert retag(registry, "dog", registry.require("dog")) == "me/dog"
    assert hub.tags == {"v1": "commit-1", "v2": "commit-2", "production": "commit-2"}


def test_a_promotion_whose_process_died_before_the_history_was_written_is_told(
    registry: Registry, hub: Hub, events: list[dict[str, Any]]
) -> None:
    announce(registry, "dog", HUB)
    link = Path(registry.at("dog"))
    link.unlink()
    link.symlink_to("versions/2")
    announce(registry, "dog", HUB)
    assert [(event["version"], event["before"]) for event in events] == [(1, None), (2, 1)]
    assert hub.tags["production"] == hub.tags["v2"] == "commit-2"
