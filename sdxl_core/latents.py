"""Pictures as the VAE sees them: encoded once per picture, transform and VAE weights.

What is kept is the posterior, mean and standard deviation, so that training draws from it anew at every step; and each
crop's own micro-conditioning, so that what the network is told is what was encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
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
from sdxl_core.data.records import Record, read_records
from sdxl_core.data.transform import View, variants
from sdxl_core.encoding import Stages, encode_batches, filled_up, in_batches
from sdxl_core.errors import UserError
from sdxl_core.latent_files import LatentFiles
from sdxl_core.model import load_vae
from sdxl_core.runtime import choose_device, choose_dtype
from sdxl_core.tensor_files import cell_key, pack, unpack
from sdxl_core.turns import TURNS

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
    pictures, keys = _keyed(records, transform, vae_digest, faces, precision)
    with LatentFiles(out, pictures, dataset, transform) as files:
        missing = _reuse(keys, cells, files)
        job = _Missing(missing, pictures, dataset, transform, cells, files)
        if missing:
            job.encode(_load_encoder(vae, where, dtype, rows), progress)
    counts = {"encoded": len(missing), "reused": len(pictures) - len(missing)}
    return {"pictures": len(records), "variants": transform.variants, **counts}


class LatentCells:
    """The latents of which `encode_latents` makes an artifact, each kept by itself and once, by their numbers."""

    def __init__(
        self,
        *,
        transform: TransformConfig,
        dataset: Path,
        vae: Path,
        vae_digest: str,
        cells: MutableMapping[str, bytes],
        faces: Path | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """Arguments as of `encode_latents`."""
        self._vae, self._precision, self._cells = vae, precision, cells
        pictures, keys = _keyed(read_records(dataset), transform, vae_digest, faces, precision)
        self._places: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            self._places.setdefault(key, []).append(place)
        self._keys = list(self._places)
        self._all = _Missing(self._places, pictures, dataset, transform, cells, None)

    def has(self, number: int) -> bool:
        return self._keys[number] in self._cells

    def missing(self, device: str) -> list[list[int]]:
        """Numbers of those that are not there, as they fill batches on a device."""
        where = choose_device(device)
        there = in_order(self.has, range(len(self._keys)))
        absent = {self._keys[number]: number for number, known in enumerate(there) if not known}
        batches = replace(self._all, places=self._some(absent)).batches(lambda size: rows_at_once(where, size))
        return [[absent[key] for key in batch] for batch in batches]

    def fill(self, numbers: Collection[int], device: str, progress: Callable[[int, int], None]) -> int:
        """Encode those of them that are not there; returns how many these were. Raises as `encode_latents`."""
        where = choose_device(device)
        dtype = choose_dtype(self._precision, where, "model.vae_precision")
        missing = [self._keys[number] for number in numbers if not self.has(number)]
        if missing:
            job = replace(self._all, places=self._some(missing))
            job.encode(_load_encoder(self._vae, where, dtype, None), progress)
        return len(missing)

    def _some(self, keys: Iterable[str]) -> dict[str, list[int]]:
        return {key: self._places[key] for key in keys}


def _keyed(
    records: Sequence[Record], transform: TransformConfig, vae_digest: str, faces: Path | None, precision: Precision
) -> tuple[Sequence[Crops], list[str]]:
    """What is cut out of every picture, and the keys of its latents."""
    pictures = plan_crops(records, transform, read_faces(faces) if faces is not None else {})
    parts: dict[str, object] = {"what": "latents", "version": VERSION, "vae": vae_digest}
    parts |= {} if precision == "fp32" else {"precision": precision}
    return pictures, [cell_key(**parts, **picture.decisive(transform)) for picture in pictures]


def _load_encoder(vae: Path, device: torch.device, dtype: torch.dtype, rows: int | None) -> LatentEncoder:
    with TURNS.loading():
        return LatentEncoder(load_vae(vae, device, dtype), rows)


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
    files: LatentFiles | None
    """Where they are put beside the cells."""

    def encode(self, encoder: LatentEncoder, progress: Callable[[int, int], None]) -> None:
        encode_batches(self.batches(encoder.rows), Stages(self._views, encoder, self._store), progress)

    def batches(self, rows: Callable[[Size], int]) -> list[list[str]]:
        """Keys of one size; `rows` are how many crops of a size go through the VAE at once."""
        by_size: dict[Size, list[str]] = {}
        for key in self.places:
            by_size.setdefault(self._first(key).size, []).append(key)
        return [
            batch
            for size, keys in by_size.items()
            for batch in in_batches(keys, max(1, rows(size) // self.transform.variants))
        ]

    def _first(self, key: str) -> Crops:
        return self.pictures[self.places[key][0]]

    def _views(self, key: str) -> list[View]:
        picture = self._first(key)
        with open_rgb(self.dataset / picture.record.image) as opened:
            return variants(opened, picture.size, picture.record.sha256, self.transform, picture.face)

    def _store(self, key: str, latents: dict[str, Tensor]) -> None:
        if not all(np.isfinite(value.numpy()).all() for value in latents.values()):
            raise UserError(
                f"{self._first(key).record.source}: the VAE gives latents that are not finite; expected finite "
                "numbers. A float16 VAE that overflows is the usual cause: set model.vae to a fixed one"
            )
        self.cells[key] = pack(latents)
        if self.files is not None:
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
        self._device, self._dtype = vae.device, vae.dtype  # asked for once: both walk through all of its modules

    def rows(self, size: Size) -> int:
        return self._rows or rows_at_once(self._device, size)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Sequence[View]]) -> list[dict[str, Tensor]]:
        """Pictures of one size, each with its V variants -> mean and std (V, C, H, W), on the VAE's device, and time
        ids (V, 6)."""
        pixels_BCHW = torch.from_numpy(np.stack([view.pixels_CHW for views in pictures for view in views]))
        height, width = pixels_BCHW.shape[-2:]
        rows = self.rows(Size(height, width))
        with TURNS.computing():
            posteriors = [self._posterior(some, rows) for some in torch.split(pixels_BCHW, rows)]
        counts = [*map(len, pictures)]
        means, stds = (torch.split(torch.cat(parts), counts) for parts in zip(*posteriors, strict=True))
        ids = [torch.tensor([view.time_ids for view in views], dtype=torch.float32) for views in pictures]
        return [{"mean": m, "std": s, "time_ids": i} for m, s, i in zip(means, stds, ids, strict=True)]

    def _posterior(self, pixels_BCHW: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        full = filled_up(pixels_BCHW, rows).to(self._device, self._dtype, non_blocking=True)
        parameters = self.vae.encode(full).latent_dist.parameters.float()
        posterior = DiagonalGaussianDistribution(parameters)
        return posterior.mean[: len(pixels_BCHW)], posterior.std[: len(pixels_BCHW)]
