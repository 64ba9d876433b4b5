"""The report's table of what was compared: two image sets, by what they say of themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.errors import EvalError
from eval.flat import flat
from eval.images import GeneratedImage

IMAGE_SET_FACTS = "set.json"


@dataclass(frozen=True)
class Facts:
    """One line of the table."""

    name: str
    base: str
    candidate: str


def set_facts(folder: Path, images: Sequence[GeneratedImage]) -> dict[str, Any]:
    """Raises EvalError where the folder is no image set."""
    path = folder / IMAGE_SET_FACTS
    if not path.is_file():
        raise EvalError(f"{folder.name}: expected {IMAGE_SET_FACTS} in it; this is not an image set")
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    digest = hashlib.sha256("\n".join(image.identity for image in images).encode()).hexdigest()
    facts: dict[str, Any] = {"count": len(images), "digest": digest}
    if own := sum(bool(image.own_settings) for image in images):
        facts["drawn by settings of their own"] = own
    return {**stored, "pictures": facts}


def side_by_side(compared: Mapping[str, Mapping[str, Any]]) -> list[Facts]:
    """`compared`: the facts of `base` and `candidate`."""
    base, candidate = (dict(flat(compared[side])) for side in ("base", "candidate"))
    dash = "\N{EN DASH}"
    return [Facts(name, base.get(name, dash), candidate.get(name, dash)) for name in dict.fromkeys([*base, *candidate])]
