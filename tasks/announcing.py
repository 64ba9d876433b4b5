"""Telling the world what is in production: a Prefect event, and a tag on the Hugging Face hub.

The link in the store is moved first and counts; whoever is told later, or missed it, is told again by the next run.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tasks.errors import ConfigError
from tasks.history import Event
from tasks.prefect_home import has_lasting_server
from tasks.push import check_repository, require_token
from tasks.registry import Registry
from tasks.retraining_config import RetrainingConfig
from tasks.versions import PRODUCTION, Version

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOG = logging.getLogger("sdxl_flows")
PROMOTED_EVENT = "sdxl-flows.model.promoted"
MODEL_RESOURCE = "sdxl-flows.model."


def announce(registry: Registry, name: str, retraining: RetrainingConfig) -> None:
    """Tell of what is in production all that have not been told.

    Raises:
        ConfigError: the hub did not take it; the link has been moved all the same.
    """
    version = registry.production(name)
    if version is None:
        return
    since = registry.since_it_moved(name)
    if has_lasting_server() and not any(event.what == "announced" for event in since):
        emit(registry, name, version, since[0] if since else None)
    if retraining.hub is not None and not any(event.what == "pushed" for event in since):
        push_version(registry, name, version, retraining.hub, retraining.private)


def tell_by_hand(registry: Registry, name: str, version: Version) -> list[str]:
    """After somebody has moved the link: the configured Prefect server, if there is one, and the hub, if it knows the
    model; returns who was told, in words.

    Raises:
        ConfigError: as `retag`.
    """
    told = []
    if has_lasting_server():
        emit(registry, name, version, registry.since_it_moved(name)[0])
        told.append("told the Prefect server")
    if repository := retag(registry, name, version):
        told.append(f"tag {PRODUCTION} of {repository} moved to v{version.number}")
    return told


def emit(registry: Registry, name: str, version: Version, moved: Event | None) -> None:
    """A Prefect event, to which automations can react. A server that is away costs nothing but the event."""
    from prefect.events import emit_event

    payload = {
        "model": name,
        "version": version.number,
        "before": None if moved is None else moved.before,
        "what": "promoted" if moved is None else moved.what,
        "reference": f"{PRODUCTION}/{name}@{version.number}",
        "path": registry.at(name),
        "release": str(version.release),
        "digest": version.release.digest,
    }
    try:
        emit_event(PROMOTED_EVENT, resource={"prefect.resource.id": f"{MODEL_RESOURCE}{name}"}, payload=payload)
    except Exception as error:
        _LOG.warning("%s: no Prefect event of version %d: %s", name, version.number, error)
        return
    registry.note(name, "announced", version.number)


def push_version(registry: Registry, name: str, version: Version, repository: str, private: bool) -> str:
    """Upload a release in one commit, tag it `v<number>`, and move the tag `production` there; returns the address.

    Raises:
        ConfigError: no token, a name that no repository can have, or a hub that does not take it.
    """
    from huggingface_hub import HfApi

    check_repository(repository)
    require_token()
    hub, tag = HfApi(), f"v{version.number}"
    try:
        address = str(hub.create_repo(repository, private=private or None, exist_ok=True))
        commit = hub.upload_folder(
            repo_id=repository,
            folder_path=registry.store.path(version.release),
            commit_message=f"{name}, version {version.number}",
            ignore_patterns=["manifest.json"],
            delete_patterns=["*"],  # what only an earlier version had
        )
        hub.create_tag(repository, tag=tag, revision=commit.oid, exist_ok=True)
        _move_tag(hub, repository, commit.oid)
    except Exception as error:  # the library lets errors of its HTTP client through, whichever that is
        raise _not_taken(repository, error, name) from error
    registry.note(name, "pushed", version.number, reason=repository)
    return address


def retag(registry: Registry, name: str, version: Version) -> str | None:
    """Move the hub's tag to a version, which is uploaded if it was not before; returns the repository, if there is one.

    Raises:
        ConfigError: the hub does not let it.
    """
    pushed = [event for event in registry.history(name) if event.what == "pushed"]
    if not pushed:
        return None

    repository = pushed[-1].reason
    if not any((event.version, event.reason) == (version.number, repository) for event in pushed):
        push_version(registry, name, version, repository, private=True)  # said of new ones only
        return repository

    from huggingface_hub import HfApi

    require_token()
    try:
        _move_tag(HfApi(), repository, f"v{version.number}")
    except Exception as error:
        raise _not_taken(repository, error, name) from error
    registry.note(name, "pushed", version.number, reason=repository)
    return repository


def _move_tag(hub: HfApi, repository: str, revision: str) -> None:
    """The hub cannot move a tag: it goes, and comes again."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        hub.delete_tag(repository, tag=PRODUCTION)
    except RevisionNotFoundError:
        _LOG.debug("%s has no tag %s yet", repository, PRODUCTION)
    hub.create_tag(repository, tag=PRODUCTION, revision=revision)


def _not_taken(repository: str, error: Exception, name: str) -> ConfigError:
    reason = next(iter(str(error).splitlines()), "")
    return ConfigError(
        f"{name}: the link in the store was moved, but the hub did not take {repository}: {type(error).__name__}: "
        f"{reason}; `sdxl-flows models push {name} --repo {repository}` tries again"
    )
