"""Networks that embed pictures, by what their folder says it holds."""

from __future__ import annotations

from pathlib import Path

from eval.clip import ClipVision
from eval.vision import Vision, model_type
from eval.vit import VitVision

KINDS: dict[str, type[Vision]] = {name: cls for cls in (ClipVision, VitVision) for name in cls.model_types}


def clip_or_vit(folder: Path, digest: str, device: str) -> Vision:
    """Raises EvalError for a folder of another kind."""
    kind = KINDS[model_type(folder, "a CLIP model or a vision transformer", tuple(KINDS))]
    return kind(folder, digest, device)
