"""What an artifact was made from that is no artifact: pictures, weights, prompts; by their digests in its recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.digests import digest_json
from tasks.manifest import Json, Recipe

_DIGEST = re.compile(r"[0-9a-f]{64}")
DATASET, PROMPTS, SCORERS = "dataset files", "prompts", "scorer weights"
ADAPTER_FILE, START, BUNDLE, PICTURES = "adapter file", "adapter begun with", "bundle", "given pictures"
DETECTOR, FACE_MODEL = "face detector", "face recogniser"
MODEL_PARTS = ("base model", "text encoders", "VAE", "tokenizer")
_WORDS = {
    "source": DATASET,
    "model": MODEL_PARTS[0],
    "vae": MODEL_PARTS[2],
    "tokenizer": MODEL_PARTS[3],
    "detector": DETECTOR,
    "face_model": FACE_MODEL,
    "files": ADAPTER_FILE,
    "start": START,
    "bundle": BUNDLE,
    "ancestor": "earlier training",
    "pictures": PICTURES,
    "weights": SCORERS,
    "scores": SCORERS,
}


@dataclass(frozen=True)
class Source:
    what: str
    of: str
    """Which of several: `clip_i: model`; empty where there is one."""
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.what} ({self.of})" if self.of else self.what


def sources_of(recipe: Recipe) -> list[Source]:
    """Every digest among the parameters, which are not those of the inputs, and the prompts."""
    found = [_named(recipe.kind, path, sha256) for path, sha256 in _digests(recipe.params)]
    if prompts := recipe.params.get("prompts"):
        found.append(Source(PROMPTS, "", digest_json(prompts)))
    return list(dict.fromkeys(found))


def _digests(value: Json, *path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        yield path, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _digests(entry, *path, key)
    elif isinstance(value, list):
        for entry in value:
            yield from _digests(entry, *path)


def _named(kind: str, path: tuple[str, ...], sha256: str) -> Source:
    what = _WORDS.get(path[0], ".".join(path))
    if what == SCORERS:
        return Source(what, f"{path[1]}: {path[-1]}", sha256)
    if what == MODEL_PARTS[0] and kind == "text":
        what = MODEL_PARTS[1]
    return Source(what, "", sha256)
