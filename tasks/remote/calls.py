"""A call of a stage as JSON, for a machine that shares the store."""

from __future__ import annotations

from importlib import import_module
from typing import Literal

from sdxl_core.errors import did_you_mean
from tasks.errors import ConfigError
from tasks.manifest import Frozen, Json, Ref
from tasks.remote.places import PLACES, Origin, brought, named_places, origin, replaced
from tasks.stage import Call, Stage
from tasks.store import ArtifactStore


class PlacedOrigin(Frozen):
    """Where one of the call's local values comes from."""

    pointer: tuple[str, ...]
    origin: Origin


class RemoteCall(Frozen):
    """What a machine has to know to build an artifact."""

    schema_version: Literal[1] = 1
    kind: str
    version: str
    """The stage's code version; the other machine must have the same."""
    label: str
    key: str
    """What the artifact's has to come to, there as here."""
    params: dict[str, Json]
    inputs: dict[str, Ref]
    local: dict[str, Json]
    places: tuple[PlacedOrigin, ...]
    devices: int = 1
    run: str = ""
    """As `Conditions` has it, and so"""
    limit_s: float | None = None


def as_remote(
    call: Call, store: ArtifactStore, from_hub: bool, run: str = "", limit_s: float | None = None
) -> RemoteCall:
    """The call for another machine; what it needs of this one is in the shared store when this returns.

    Raises:
        ConfigError: stages of its kind run here only; or as `tasks.remote.places.origin`.
    """
    recipe = call.recipe()
    known_stage(recipe.kind)
    places = named_places(recipe.kind, call.local)
    return RemoteCall(
        kind=recipe.kind,
        version=recipe.code,
        label=call.label,
        key=recipe.key,
        params=recipe.params,
        inputs=recipe.inputs,
        local=dict(call.local),
        places=tuple(PlacedOrigin(pointer=at, origin=origin(place, store, from_hub)) for at, place in places),
        devices=call.devices,
        run=run,
        limit_s=limit_s,
    )


def as_call(remote: RemoteCall, store: ArtifactStore) -> Call:
    """The call on this machine, with all that it names brought here.

    Raises:
        ConfigError: the stage is not known here, or is of other code; or as `tasks.remote.places.brought`.
    """
    stage = known_stage(remote.kind)
    if stage.version != remote.version:
        fix = "Let both sides run the same version of the project"
        raise ConfigError.about(
            f"stage {remote.kind}", expected=f"code version {remote.version}", got=f"{stage.version} here", fix=fix
        )
    named = {pointer for pointer, _ in named_places(remote.kind, remote.local)}
    if wrong := named ^ {placed.pointer for placed in remote.places}:
        got = ", ".join(sorted("/".join(pointer) for pointer in wrong))
        raise ConfigError.about(f"stage {remote.kind}", expected="the places that a call of it names", got=got)
    local: dict[str, Json] = remote.local
    for placed in remote.places:
        local = replaced(local, placed.pointer, str(brought(placed.origin, store, f"stage {remote.kind}")))
    call = Call(stage, remote.label, remote.params, dict(remote.inputs), local, remote.devices)
    if call.recipe().key != remote.key:
        raise ConfigError.about(f"stage {remote.kind}", expected=f"a call of key {remote.key}", got=call.recipe().key)
    if remote.kind == "train":
        _require_base(call, store)
    return call


def _require_base(call: Call, store: ArtifactStore) -> None:
    """Raises UserError where the base model that was brought here is not the one of the call's key, or not whole."""
    from sdxl_core.config import ModelConfig
    from sdxl_core.families import family_of
    from tasks.train import trained_from
    from tasks.weights import local_folders, locate_base_model

    folder, vae = local_folders(call.local)
    config = ModelConfig(family=family_of(folder).name, base=str(folder), vae=str(vae) if vae else None)
    if call.params["model"] not in trained_from(locate_base_model(config, store.digest_file, call.label)):
        raise ConfigError.about(call.label, expected="the base model of the call's key", got=f"another in {folder}")


def known_stage(kind: str) -> Stage:
    """Raises ConfigError where stages of this kind cannot run on another machine."""
    if kind not in PLACES:
        expected = f"one that can run on another machine ({', '.join(sorted(PLACES))})"
        raise ConfigError.about("stage", expected=expected, got=kind, fix=did_you_mean(kind, PLACES))
    stage: Stage = import_module(f"tasks.{kind}").STAGE
    return stage
