"""Pictures as the VAE sees them: encoded once per picture, transform and VAE weights.

What is kept is the posterior, mean and standard deviation, so that training draws from it anew at every step; and each
crop's own micro-conditioning, so that what the network is told is what was encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from sdxl_core.ahead import in_order
from sdxl_core.config import Precision, TransformConfig
from sdxl_core.data.buckets import Size
from sdxl_core.data.crops import Crops, plan_crops
from sdxl_core.data.decode import open_rgb
from sdxl_core.data.faces import read_faces
from sdxl_core.data.records import read_records
from sdxl_core.data.transform import View, variants
from sdxl_core.encoding import Stages, encode_batches, filled_up, in_batches
from sdxl_core.errors import UserError
from sdxl_core.latent_files import LatentFiles
from sdxl_core.model import load_vae
from sdxl_core.runtime import choose_device, choose_dtype
from sdxl_core.tensor_files import cell_key, pack, unpack

# B rows, V variants (crops, mirrored or not), C channels, H W size

VERSION = 2
_PIXELS_AT_ONCE = 4 * 1024 * 1024
"""On a GPU; attention over a whole picture's latents wants room."""
_MOST_ROWS = 32


def encode_latents(
    *,
    transform: TransformConfig,
    dataset: Path,
    vae: Path,
    vae_digest: str,
    out: Path,
    cells: MutableMapping[str, bytes],
    faces: Path | None = None,
    precision: Precision = "fp32",
    device: str = "auto",
    rows: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Encode every picture of `dataset` into `latents.safetensors` and `index.jsonl`.

    Pictures of several sizes have a file for each size, with the pictures in the index's order. A dataset with masks
    has their averages over every latent cell beside the latents. `faces` holds what a detector found. `rows` go through
    the VAE at once (default: `rows_at_once`).

    Returns {"pictures", "variants", "encoded", "reused"}: `reused` ones were in `cells` before, or are copies.

    Raises:
        UserError: the VAE gives non-finite latents for a picture, which is named.
    """
    where = choose_device(device)
    dtype = choose_dtype(precision, where, "model.vae_precision")
    records = read_records(dataset)
    pictures = plan_crops(records, transform, read_faces(faces) if faces is not None else {})
    parts: dict[str, object] = {"what": "latents", "version": VERSION, "vae": vae_digest}
    parts |= {} if precision == "fp32" else {"precision": precision}
    keys = [cell_key(**parts, **picture.decisive(transform)) for picture in pictures]
    with LatentFiles(out, pictures, dataset, transform) as files:
        missing = _reuse(keys, cells, files)
        job = _Missing(missing, pictures, dataset, transform, cells, files)
        if missing:
            job.encode(LatentEncoder(load_vae(vae, where, dtype), rows), progress)
    counts = {"encoded": len(missing), "reused": len(pictures) - len(missing)}
    return {"pictures": len(records), "variants": transform.variants, **counts}


def _reuse(keys: Sequence[str], cells: MutableMapping[str, bytes], files: LatentFiles) -> dict[str, list[int]]:
    """Put what is in the cells into the files; returns the keys that are not, with the places where they belong."""

    def reuse(i: int) -> bool:
        if (data := cells.get(keys[i])) is not None:
            files.put(i, unpack(data))
        return data is not None

    missing: dict[str, list[int]] = {}
    for i, there in enumerate(in_order(reuse, range(len(keys)))):
        if not there:
            missing.setdefault(keys[i], []).append(i)
    return missing


@dataclass(frozen=True)
class _Missing:
    """What has to be encoded."""

    places: Mapping[str, Sequence[int]]
    """By key, where in the index; pictures of the same bytes have the same key."""
    pictures: Sequence[Crops]
    dataset: Path
    transform: TransformConfig
    cells: MutableMapping[str, bytes]
    files: LatentFiles

    def encode(self, encoder: LatentEncoder, progress: Callable[[int, int], None]) -> None:
        by_size: dict[Size, list[str]] = {}
        for key in self.places:
            by_size.setdefault(self._first(key).size, []).append(key)
        batches = [
            batch
            for size, keys in by_size.items()
            for batch in in_batches(keys, max(1, encoder.rows(size) // self.transform.variants))
        ]
        encode_batches(batches, Stages(self._views, encoder, self._store), progress)

    def _first(self, key: str) -> Crops:
        return self.pictures[self.places[key][0]]

    def _views(self, key: str) -> list[View]:
        picture = self._first(key)
        with open_rgb(self.dataset / picture.record.image) as opened:
            return variants(opened, picture.size, picture.record.sha256, self.transform, picture.face)

    def _store(self, key: str, latents: dict[str, Tensor]) -> None:
        if not all(bool(torch.isfinite(value).all()) for value in latents.values()):
            raise UserError(
                f"{self._first(key).record.source}: the VAE gives latents that are not finite; expected finite "
                "numbers. A float16 VAE that overflows is the usual cause: set model.vae to a fixed one"
            )
        self.cells[key] = pack(latents)
        for i in self.places[key]:
            self.files.put(i, latents)


def rows_at_once(device: torch.device, size: Size) -> int:
    """How many crops go through the VAE at once: on a CPU alone, since company makes them no faster there."""
    return max(1, min(_MOST_ROWS, _PIXELS_AT_ONCE // size.area)) if device.type == "cuda" else 1


class LatentEncoder:
    """Crops -> mean and standard deviation, float32, and time ids."""

    def __init__(self, vae: AutoencoderKL, rows: int | None = None) -> None:
        self.vae = vae
        self._rows = rows

    def rows(self, size: Size) -> int:
        return self._rows or rows_at_once(self.vae.device, size)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Sequence[View]]) -> list[dict[str, Tensor]]:
        """Pictures of one size, each with its V variants -> mean and std (V, C, H, W), on the VAE's device, and time
        ids (V, 6)."""
        pixels_BCHW = torch.from_numpy(np.stack([view.pixels_CHW for views in pictures for view in views]))
        height, width = pixels_BCHW.shape[-2:]
        rows = self.rows(Size(height, width))
        posteriors = [self._posterior(some, rows) for some in torch.split(pixels_BCHW, rows)]
        counts = [*map(len, pictures)]
        means, stds = (torch.split(torch.cat(parts), counts) for parts in zip(*posteriors, strict=True))
        ids = [torch.tensor([view.time_ids for view in views], dtype=torch.float32) for views in pictures]
        return [{"mean": m, "std": s, "time_ids": i} for m, s, i in zip(means, stds, ids, strict=True)]

    def _posterior(self, pixels_BCHW: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        full = filled_up(pixels_BCHW, rows).to(self.vae.device, self.vae.dtype, non_blocking=True)
        parameters = self.vae.encode(full).latent_dist.parameters.float()
        posterior = DiagonalGaussianDistribution(parameters)
        return posterior.mean[: len(pixels_BCHW)], posterior.std[: len(pixels_BCHW)]
