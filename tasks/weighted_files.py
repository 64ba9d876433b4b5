"""LoRA files as the command line names them, each with a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sdxl_core.disk import file_sha256
from tasks.errors import ConfigError
from tasks.exports import OURS

WeightedFiles = Sequence[tuple[Path, float]]


def weighted_files(given: Sequence[str]) -> list[tuple[Path, float]]:
    """`FILE.safetensors` or `FILE.safetensors:WEIGHT` -> file and weight.

    Raises:
        ConfigError: there is no such file, or the weight is no number.
    """
    return [_weighted(text) for text in given]


def _weighted(text: str) -> tuple[Path, float]:
    name, weight = (text, "1") if text.endswith(".safetensors") else text.rpartition(":")[::2]
    try:
        factor = float(weight)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor) or not Path(name).is_file():
        raise ConfigError.about("--lora", expected="an existing FILE.safetensors or FILE.safetensors:WEIGHT", got=text)
    return Path(name), factor


def names_of(loras: WeightedFiles) -> list[str]:
    """For people."""
    return [file.stem if weight == 1 else f"{file.stem} x {weight:g}" for file, weight in loras]


def digests_of(loras: WeightedFiles) -> dict[str, str]:
    """For a file's header."""
    return {f"{OURS}lora.{place}": file_sha256(file) for place, (file, _) in enumerate(loras)}
