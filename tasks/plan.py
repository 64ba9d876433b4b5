"""What a run would do: which stages are reused, which run, and what changed since the nearest earlier artifact."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tasks.errors import ConfigError
from tasks.manifest import Json, Manifest
from tasks.slots import require_devices
from tasks.stage import Call, Handle, Pending, Runner
from tasks.store import ArtifactStore, DamagedArtifact

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN = 3
_ABSENT = "nothing"


@dataclass(frozen=True)
class Planned:
    """One stage of a plan."""

    label: str
    action: Literal["reuse", "run"]
    why: str


class Planner:
    """A runner that builds nothing and remembers what a run would do."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._earlier: dict[str, list[Manifest]] = {}
        self.stages: list[Planned] = []
        self._to_run: list[Call] = []

    @property
    def complete(self) -> bool:
        """Whether there is nothing to run."""
        return all(stage.action == "reuse" for stage in self.stages)

    def __call__(self, call: Call) -> Handle:
        waiting = [handle.label for handle in call.inputs.values() if isinstance(handle, Pending)]
        if waiting:
            return self._pending(call, "; ".join([f"after {', '.join(waiting)}", *self.changes(call)]))
        recipe = call.recipe()
        try:
            ref = self._store.find(recipe.kind, recipe.key)
        except DamagedArtifact as damage:
            return self._pending(call, f"damaged: {damage}")
        if ref is None:
            return self._pending(call, "; ".join(self.changes(call)) or "not in the store")
        self.stages.append(Planned(call.label, "reuse", str(ref)))
        return ref

    def require_devices(self, device: str, elsewhere: Collection[str] = ()) -> None:
        """Raises UserError where a stage that would run needs more GPUs than this process may use.

        Stages of the kinds in `elsewhere` run on other machines.
        """
        for call in self._to_run:
            if call.stage.heavy and call.stage.kind not in elsewhere:
                require_devices(call.wish(device))

    def changes(self, call: Call) -> list[str]:
        """Differences to the most similar earlier artifact of the same label; to the newest among equals."""
        kind = call.stage.kind
        if kind not in self._earlier:
            self._earlier[kind] = list(self._store.manifests(kind))
        earlier = [manifest for manifest in self._earlier[kind] if manifest.label == call.label]
        if not earlier:
            return ["never run before"]
        return _abridged(min((differences(manifest, call) for manifest in reversed(earlier)), key=len))

    def _pending(self, call: Call, why: str) -> Pending:
        self.stages.append(Planned(call.label, "run", why))
        self._to_run.append(call)
        return Pending(call.stage.kind, call.label)


class Expecting:
    """A runner that expects stages of some kinds in the store and leaves all others to another runner."""

    def __init__(self, kinds: Collection[str], store: ArtifactStore, others: Runner) -> None:
        self._kinds, self._store, self._others = kinds, store, others

    def __call__(self, call: Call) -> Handle:
        """
        Raises:
            ConfigError: the stage's inputs are all there, and it is not.
        """
        known = not any(isinstance(handle, Pending) for handle in call.inputs.values())
        if call.stage.kind in self._kinds and known:
            recipe = call.recipe()
            if self._store.find_whole(recipe.kind, recipe.key) is None:
                changes = "; ".join(Planner(self._store).changes(call))
                raise ConfigError(f"{call.label}: not in the store for this configuration ({changes}); `run` it first")
        return self._others(call)


def differences(earlier: Manifest, call: Call) -> list[str]:
    """In words, what would be different from an earlier artifact; inputs not known yet are not compared."""
    recipe = earlier.recipe
    now: dict[str, Json] = {"code version": call.stage.version, **call.params}
    before: dict[str, Json] = {"code version": recipe.code, **recipe.params}
    for name in {*call.inputs, *recipe.inputs}:
        handle = call.inputs.get(name)
        if isinstance(handle, Pending):
            continue
        now[f"content of {name}"] = handle.digest if handle else None
        before[f"content of {name}"] = recipe.inputs[name].digest if name in recipe.inputs else None
    return list(_compare("", before, now))


def _compare(where: str, before: Json, now: Json) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted({*before, *now}):
            yield from _compare(f"{where}.{name}".lstrip("."), before.get(name, _ABSENT), now.get(name, _ABSENT))
    elif isinstance(before, list) and isinstance(now, list) and len(before) != len(now):
        yield f"{where}: {len(before)} → {len(now)} entries"
    elif isinstance(before, list) and isinstance(now, list):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _compare(f"{where}[{index}]", old, new)
    elif before != now:
        yield f"{where}: {_short(before)} → {_short(now)}"


def _short(value: Json) -> str:
    text = value if isinstance(value, str) else repr(value)
    if _DIGEST.fullmatch(text):
        return text[:8]
    return text if len(text) <= 40 else f"{text[:37]}..."


def _abridged(changes: list[str]) -> list[str]:
    rest = len(changes) - _SHOWN
    return [*changes[:_SHOWN], *([f"and {rest} more"] if rest > 0 else [])]
