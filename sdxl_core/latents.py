"""Pictures as the VAE sees them: encoded once per picture, transform and VAE weights.

What is kept is the posterior, mean and standard deviation, so that training draws from it anew at every step; and each
crop's own micro-conditioning, so that what the network is told is what was encoded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from sdxl_core.config import TransformConfig
from sdxl_core.data.crops import Crops, plan_crops
from sdxl_core.data.decode import open_rgb
from sdxl_core.data.faces import read_faces
from sdxl_core.data.masks import read_mask
from sdxl_core.data.records import read_records
from sdxl_core.data.transform import mask_in, variants, windows
from sdxl_core.errors import UserError
from sdxl_core.model import load_vae
from sdxl_core.runtime import choose_device
from sdxl_core.tensor_files import cell_key, pack, unpack, write_tensors

# N pictures, V variants (crops, mirrored or not), C latent channels, H W latent size

VERSION = 2
INDEX_FILE = "index.jsonl"


def latents_file(size: str | None) -> str:
    """Where the latents of one size are (`832x1216`, pixels); None where all pictures are of one."""
    return "latents.safetensors" if size is None else f"latents-{size}.safetensors"


def encode_latents(
    *,
    transform: TransformConfig,
    dataset: Path,
    vae: Path,
    vae_digest: str,
    out: Path,
    cells: MutableMapping[str, bytes],
    faces: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Encode every picture of `dataset` into `latents.safetensors` and `index.jsonl`.

    Pictures of several sizes have a file for each size, with the pictures in the index's order. A dataset with masks
    has their averages over every latent cell beside the latents. `faces` holds what a detector found.

    Returns {"pictures", "variants", "encoded"}; `encoded` counts those not in `cells` before.

    Raises:
        UserError: the VAE gives non-finite latents for a picture, which is named.
    """
    records = read_records(dataset)
    pictures = plan_crops(records, transform, read_faces(faces) if faces is not None else {})
    keys = [
        cell_key(what="latents", version=VERSION, vae=vae_digest, **picture.decisive(transform)) for picture in pictures
    ]
    missing = [i for i, key in enumerate(keys) if key not in cells]
    where = choose_device(device)
    autoencoder = load_vae(vae, where) if missing else None
    for done, i in enumerate(missing, start=1):
        assert autoencoder is not None
        cells[keys[i]] = pack(_encode(autoencoder, pictures[i], dataset, transform, where))
        progress(done, len(missing))
    out.mkdir(parents=True, exist_ok=True)
    sizes = sorted({picture.size for picture in pictures})
    for size in sizes:
        of_size = [(p, unpack(cells[key])) for p, key in zip(pictures, keys, strict=True) if p.size == size]
        write_tensors(out / latents_file(str(size) if len(sizes) > 1 else None), _stacked(of_size, dataset, transform))
    lines = (json.dumps(_index_line(p, several=len(sizes) > 1), ensure_ascii=False) + "\n" for p in pictures)
    (out / INDEX_FILE).write_text("".join(lines), encoding="utf-8")
    each = transform.crops_per_image * (2 if transform.flip else 1)
    return {"pictures": len(records), "variants": each, "encoded": len(missing)}


def _stacked(
    rows: Sequence[tuple[Crops, Mapping[str, Tensor]]], dataset: Path, transform: TransformConfig
) -> dict[str, Tensor]:
    names = {"mean": "mean_NVCHW", "std": "std_NVCHW", "time_ids": "time_ids_NV6"}
    stacked = {full: torch.stack([latents[name] for _, latents in rows]) for name, full in names.items()}
    if any(picture.record.mask is not None for picture, _ in rows):
        height, width = stacked["mean_NVCHW"].shape[-2:]
        masks = [_masks(picture, dataset, transform, height, width) for picture, _ in rows]
        stacked["mask_NVHW"] = torch.stack(masks)
    return stacked


def _masks(picture: Crops, dataset: Path, transform: TransformConfig, height: int, width: int) -> Tensor:
    """V x H x W, as `windows` has the variants."""
    record = picture.record
    with read_mask(dataset, record) as mask:
        shown = windows(record.height, record.width, picture.size, record.sha256, transform, picture.face)
        return torch.stack([torch.from_numpy(mask_in(mask, window, height, width)) for window in shown])


def _index_line(picture: Crops, *, several: bool) -> dict[str, object]:
    line: dict[str, object] = {"image_sha256": picture.record.sha256, "text": picture.record.text}
    if picture.record.concept is not None:
        line["concept"] = picture.record.concept
    if several:
        line |= {"size": str(picture.size), "share": picture.share}
    return line


@torch.no_grad()
def _encode(
    vae: AutoencoderKL, picture: Crops, dataset: Path, transform: TransformConfig, device: torch.device
) -> dict[str, Tensor]:
    """One picture -> mean and std (V, C, H, W), time ids (V, 6)."""
    record = picture.record
    with open_rgb(dataset / record.image) as opened:
        views = variants(opened, picture.size, record.sha256, transform, picture.face)
    means, stds, ids = [], [], []
    for view in views:
        posterior = vae.encode(torch.from_numpy(view.pixels_CHW)[None].to(device)).latent_dist
        means.append(posterior.mean[0].float().cpu())
        stds.append(posterior.std[0].float().cpu())
        ids.append(torch.tensor(view.time_ids, dtype=torch.float32))
    latents = {"mean": torch.stack(means), "std": torch.stack(stds), "time_ids": torch.stack(ids)}
    if not all(bool(torch.isfinite(value).all()) for value in latents.values()):
        raise UserError(
            f"{record.source}: the VAE gives latents that are not finite; expected finite numbers. "
            "A float16 VAE that overflows is the usual cause: set model.vae to a fixed one"
        )
    return latents
