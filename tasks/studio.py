"""Typed prompts: base and candidate draw them from the same noise, and a voter says which picture is better."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from pydantic import ValidationError

from sdxl_core.config import SamplingConfig
from sdxl_core.picture_settings import PictureSettings
from tasks.devices import Device
from tasks.errors import ConfigError
from tasks.images import model_of
from tasks.manifest import Json, Ref
from tasks.slots import Wish, device_slot
from tasks.stage import Call, Handle, Pending, Runner, materialise
from tasks.store import ArtifactStore

if TYPE_CHECKING:
    from eval.booth import Booth, Place, ShownPair
    from eval.votes import Typed, Vote
    from sdxl_core.kept_model import KeptModel
    from sdxl_core.sampling import Request

_KEPT = 100
"""Drawn pairs that can still be voted on."""
SIDES = ("base", "candidate")
CONFIDENCE = 0.95


class Watching:
    """A runner that remembers who would draw, and builds nothing but exports of bundles."""

    def __init__(self, others: Runner, store: ArtifactStore, calls: dict[str, Call]) -> None:
        """`calls` is filled with those of stage `images`, by role."""
        self._others, self._store, self._calls = others, store, calls

    def __call__(self, call: Call) -> Handle:
        if call.stage.kind == "images":
            self._calls[call.label.partition("/")[2]] = call
            return Pending(call.stage.kind, call.label)
        if call.stage.kind == "bundle":
            return materialise(call, self._store, "cpu")
        return self._others(call)


@dataclass(frozen=True)
class DrawnPair:
    """Two pictures of a typed prompt."""

    shown: ShownPair
    typed: Typed


class Studio:
    """Two models, loaded when the first prompt comes, and drawing one prompt at a time."""

    def __init__(self, name: str, calls: Mapping[str, Call], store: ArtifactStore, device: str) -> None:
        """`calls`: what stage `images` would be asked for, by role; `name`: of the run.

        Raises:
            ConfigError: one of the two does not draw.
        """
        for role in SIDES:
            if role not in calls:
                fix = "name one that does by --candidate"
                raise ConfigError(f"{role}: pictures, or several models, and no single one that draws; {fix}")
        self.name, self._calls, self._store, self._device = name, calls, store, device
        self.sampling = SamplingConfig.model_validate(calls["base"].params["sampling"])
        self.pngs: OrderedDict[str, bytes] = OrderedDict()
        """By the digest of their pixels, the last ones drawn."""
        self._drawn: OrderedDict[str, DrawnPair] = OrderedDict()
        self._models: dict[str, KeptModel] = {}
        self._drawing = Lock()
        self._devices: tuple[Device, ...] | None = None

    def draw(self, prompt: str, seed: int, steps: int, guidance_scale: float) -> tuple[str, DrawnPair]:
        """-> a name for it, and the pictures.

        Raises:
            ConfigError: the settings do not go with `sampling`.
            UserError: the device cannot draw so.
        """
        from eval.booth import ShownPair
        from eval.images import GeneratedImage
        from eval.votes import Typed
        from sdxl_core.picture_files import pixel_digest
        from sdxl_core.sampling import Request

        if not prompt.strip():
            raise ConfigError.about("prompt", expected="words to draw", got="none")
        settings = self._settings(steps, guidance_scale)
        pictures = {}
        with self._drawing:
            for role in SIDES:
                png = self._png(role, Request(prompt, seed, settings))
                digest = pixel_digest(png)
                self.pngs[digest] = png
                pictures[role] = GeneratedImage(Path(f"{digest}.png"), digest, "", prompt, "", 0, seed)
        typed = Typed(
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
            base_model=self._models["base"].digest,
            candidate_model=self._models["candidate"].digest,
        )
        drawn = DrawnPair(ShownPair(**pictures), typed)
        name = hashlib.sha256(f"{drawn.typed.model_dump_json()}\n{prompt}".encode()).hexdigest()[:16]
        self._drawn[name] = drawn
        while len(self._drawn) > _KEPT:
            self._drawn.popitem(last=False)
        while len(self.pngs) > 2 * _KEPT:
            self.pngs.popitem(last=False)
        return name, drawn

    def vote(self, booth: Booth, voter: str, name: str, place: Place) -> Vote:
        """Raises ConfigError where the pair was drawn too long ago."""
        if name not in self._drawn:
            raise ConfigError("this pair is not known any more; draw it again")
        drawn = self._drawn[name]
        return booth.cast(voter, self.name, drawn.shown, place, drawn.typed)

    def results(self, booth: Booth) -> dict[str, Json]:
        """What all voters said of these two models' pictures of typed prompts."""
        from eval.votes import Preferences

        models = {role: model.digest for role, model in self._models.items()}
        mine = [
            vote
            for vote in booth.read().votes
            if vote.typed and {"base": vote.typed.base_model, "candidate": vote.typed.candidate_model} == models
        ]
        preferences = Preferences(mine)
        last = [vote for pair in {vote.pair for vote in mine} for vote in preferences.about(pair)]
        return _counted(last)

    def _settings(self, steps: int, guidance_scale: float) -> PictureSettings:
        """What of them is not as configured, so that a picture that is there already is known again."""
        asked = {"steps": steps, "guidance_scale": guidance_scale}
        own = {name: value for name, value in asked.items() if value != getattr(self.sampling, name)}
        try:
            settings = PictureSettings.model_validate(own)
            settings.of(self.sampling)
        except ValidationError as error:
            mistake = error.errors(include_url=False)[0]
            raise ConfigError(f"{'.'.join(map(str, mistake['loc'])) or 'settings'}: {mistake['msg']}") from None
        return settings

    def _png(self, role: str, request: Request) -> bytes:
        """By the code that draws image sets, out of the same cache or into it."""
        from sdxl_core.cached_pictures import CachedPictures, Caches
        from sdxl_core.runtime import choose_device

        wish = Wish("view", self._device, run=self.name)
        with device_slot(self._store.root, wish, lambda _: None, self._devices) as slot:
            self._devices = slot.devices  # where the models are from now on
            (png,) = CachedPictures(
                [request],
                model=self._model(role),
                sampling=self.sampling,
                device=choose_device(slot.device),
                caches=Caches(self._store.cells("images"), self._store.cells("prompts")),
                progress=lambda done, total: None,
            )
        return png

    def _model(self, role: str) -> KeptModel:
        from sdxl_core.kept_model import KeptModel

        if role not in self._models:
            call = self._calls[role]
            inputs = {name: self._store.path(ref) for name, ref in call.inputs.items() if isinstance(ref, Ref)}
            self._models[role] = KeptModel.of(model_of(call.params, inputs, call.local, self._store.digest_file))
        return self._models[role]


def _counted(votes: list[Vote]) -> dict[str, Json]:
    """For the candidate; the interval is over prompts."""
    import numpy as np

    from eval.stats import share_interval

    shares = defaultdict(list)
    for vote in votes:
        shares[vote.prompt].append({"candidate": 1.0, "tie": 0.5, "base": 0.0}[vote.choice])
    share_P = np.array([np.mean(mine) for mine in shares.values()])
    interval = share_interval(share_P, CONFIDENCE)
    return {
        "votes": len(votes),
        "prompts": len(shares),
        "wins": sum(vote.choice == "candidate" for vote in votes),
        "ties": sum(vote.choice == "tie" for vote in votes),
        "losses": sum(vote.choice == "base" for vote in votes),
        "share": float(share_P.mean()) if len(share_P) else None,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "confidence": CONFIDENCE,
    }
