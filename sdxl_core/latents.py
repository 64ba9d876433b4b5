"""Pictures as the VAE sees them: encoded once per picture, transform and VAE weights.

What is kept is the posterior, mean and standard deviation, so that training draws from it anew at every step; and each
crop's own micro-conditioning, so that what the network is told is what was encoded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from sdxl_core.config import TransformConfig
from sdxl_core.data.decode import open_rgb
from sdxl_core.data.records import Record, read_records
from sdxl_core.data.transform import variants
from sdxl_core.errors import UserError
from sdxl_core.model import load_vae
from sdxl_core.runtime import choose_device
from sdxl_core.tensor_files import cell_key, pack, unpack, write_tensors

# N pictures, V variants (crops, mirrored or not), C latent channels, H W latent size

VERSION = 1


def encode_latents(
    *,
    transform: TransformConfig,
    dataset: Path,
    vae: Path,
    vae_digest: str,
    out: Path,
    cells: MutableMapping[str, bytes],
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Encode every picture of `dataset` into `latents.safetensors` and `index.jsonl`.

    Returns {"pictures", "variants", "encoded"}; `encoded` counts those not in `cells` before.

    Raises:
        UserError: the VAE gives non-finite latents for a picture, which is named.
    """
    records = read_records(dataset)
    spec = transform.model_dump(mode="json")
    keys = [cell_key(what="latents", version=VERSION, vae=vae_digest, transform=spec, image=r.sha256) for r in records]
    missing = [i for i, key in enumerate(keys) if key not in cells]
    where = choose_device(device)
    autoencoder = load_vae(vae, where) if missing else None
    for done, i in enumerate(missing, start=1):
        assert autoencoder is not None
        cells[keys[i]] = pack(_encode(autoencoder, records[i], dataset, transform, where))
        progress(done, len(missing))
    rows = [unpack(cells[key]) for key in keys]
    out.mkdir(parents=True, exist_ok=True)
    names = {"mean": "mean_NVCHW", "std": "std_NVCHW", "time_ids": "time_ids_NV6"}
    stacked = {full: torch.stack([row[name] for row in rows]) for name, full in names.items()}
    write_tensors(out / "latents.safetensors", stacked)
    lines = (json.dumps({"image_sha256": r.sha256, "text": r.text}, ensure_ascii=False) + "\n" for r in records)
    (out / "index.jsonl").write_text("".join(lines), encoding="utf-8")
    return {"pictures": len(records), "variants": rows[0]["mean"].shape[0], "encoded": len(missing)}


@torch.no_grad()
def _encode(
    vae: AutoencoderKL, record: Record, dataset: Path, transform: TransformConfig, device: torch.device
) -> dict[str, Tensor]:
    """One picture -> mean and std (V, C, H, W), time ids (V, 6)."""
    with open_rgb(dataset / record.image) as picture:
        views = variants(picture, record.sha256, transform)
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
