"""Pictures as the latents artifact holds them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from sdxl_core.latent_files import INDEX_FILE, latents_file

# N pictures, V variants, C latent channels, H W latent size


@dataclass(frozen=True)
class CachedImages:
    """Pictures as posteriors, with the caption each one has.

    A tensor that begins with N is one tensor, or where pictures have several sizes a tensor for each picture.
    """

    mean_NVCHW: Tensor | Sequence[Tensor]
    std_NVCHW: Tensor | Sequence[Tensor]
    time_ids_NV6: Tensor | Sequence[Tensor]
    captions: tuple[str, ...]
    sha256s: tuple[str, ...]
    mask_NVHW: Tensor | Sequence[Tensor] | None = None
    """Where the loss counts, in [0, 1]."""
    concepts: tuple[str | None, ...] | None = None
    """Of each picture; None: no picture has one."""
    shares: tuple[float, ...] | None = None
    """How often each picture is seen in an epoch, before its concept's repeats; None: once."""
    liked: tuple[bool, ...] | None = None
    """Of each picture; None: they are not labelled."""

    def __len__(self) -> int:
        return len(self.sha256s)

    @property
    def concept_of(self) -> dict[str, str | None]:
        """Of each picture, by its sha256."""
        return dict(zip(self.sha256s, self.concepts or [None] * len(self), strict=True))

    @property
    def sizes(self) -> list[str]:
        """Of each picture's latents, height x width."""
        return [f"{mean.shape[-2]}x{mean.shape[-1]}" for mean in self.mean_NVCHW]

    def split(self, held_out: Collection[str]) -> tuple[CachedImages, CachedImages]:
        """(those to train on, those whose digest is among `held_out`), each in the order they had."""
        sides: tuple[list[int], list[int]] = ([], [])
        for place, sha256 in enumerate(self.sha256s):
            sides[sha256 in held_out].append(place)
        return self._at(sides[0]), self._at(sides[1])

    def seen(self, places: Sequence[int], times: Sequence[float], liked: bool | None) -> CachedImages:
        """The pictures at `places`, so many times each."""
        chosen = self._at(places)
        shares = [share * each for share, each in zip(chosen.shares or [1.0] * len(chosen), times, strict=True)]
        return replace(chosen, shares=tuple(shares), liked=None if liked is None else (liked,) * len(chosen))

    def joined(self, other: CachedImages) -> CachedImages:
        """These and then those; both have the same fields."""

        def both(name: str) -> Any:
            mine, theirs = getattr(self, name), getattr(other, name)
            return None if mine is None else (*mine, *theirs)

        return CachedImages(**{field.name: both(field.name) for field in fields(CachedImages)})

    def _at(self, places: Sequence[int]) -> CachedImages:
        """The pictures at `places`; tensors are shared, not copied."""

        def rows(values: Any) -> Any:
            return None if values is None else tuple(values[place] for place in places)

        return CachedImages(*(rows(getattr(self, field.name)) for field in fields(CachedImages)))


def load_images(folder: Path) -> CachedImages:
    """What the latents artifact holds."""
    index = [json.loads(line) for line in (folder / INDEX_FILE).read_text(encoding="utf-8").splitlines()]
    tensors = _load_latents(folder, [row.get("size") for row in index])
    return CachedImages(
        tensors["mean_NVCHW"],
        tensors["std_NVCHW"],
        tensors["time_ids_NV6"],
        tuple(row["text"] for row in index),
        tuple(row["image_sha256"] for row in index),
        tensors.get("mask_NVHW"),
        tuple(row.get("concept") for row in index),
        tuple(row.get("share", 1.0) for row in index),
    )


def _load_latents(folder: Path, sizes: Sequence[str | None]) -> Mapping[str, Tensor | Sequence[Tensor]]:
    """The tensors of an artifact by name, in the order of its index; `sizes` are the index's."""
    files = {size: load_file(folder / latents_file(size)) for size in dict.fromkeys(sizes)}
    if len(files) == 1:
        return files[sizes[0]]
    in_turn = {size: iter(range(len(sizes))) for size in files}
    places = [(size, next(in_turn[size])) for size in sizes]
    return {name: [files[size][name][place] for size, place in places] for name in files[sizes[0]]}
