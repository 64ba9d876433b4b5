"""The files of a latents artifact."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdxl_core.config import TransformConfig
from sdxl_core.data.buckets import Size
from sdxl_core.data.crops import Crops
from sdxl_core.data.masks import read_mask
from sdxl_core.data.transform import mask_in, windows
from sdxl_core.tensor_files import RowFile

# N pictures, V variants (crops, mirrored or not), C latent channels, H W latent size

INDEX_FILE = "index.jsonl"


def latents_file(size: str | None) -> str:
    """Where the latents of one size are (`832x1216`, pixels); None where all pictures are of one."""
    return "latents.safetensors" if size is None else f"latents-{size}.safetensors"


class LatentFiles:
    """The files of a latents artifact, filled picture by picture in any order."""

    def __init__(self, out: Path, pictures: Sequence[Crops], dataset: Path, transform: TransformConfig) -> None:
        self._out, self._pictures, self._dataset, self._transform = out, pictures, dataset, transform
        out.mkdir(parents=True, exist_ok=True)
        counts = Counter(picture.size for picture in pictures)
        self._several = len(counts) > 1
        self._files = {
            size: RowFile(out / latents_file(str(size) if self._several else None), count)
            for size, count in counts.items()
        }
        taken: Counter[Size] = Counter()
        self._rows = array("q")
        for picture in pictures:
            self._rows.append(taken[picture.size])
            taken[picture.size] += 1
        self._masked = any(picture.record.mask is not None for picture in pictures)

    def __enter__(self) -> LatentFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for file in self._files.values():
            file.close()
        if kind is None:
            with (self._out / INDEX_FILE).open("w", encoding="utf-8") as index:
                lines = (_index_line(picture, several=self._several) for picture in self._pictures)
                index.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    def put(self, i: int, latents: Mapping[str, Tensor]) -> None:
        """What was encoded of picture `i`, and its masks."""
        names = {"mean": "mean_NVCHW", "std": "std_NVCHW", "time_ids": "time_ids_NV6"}
        row = {full: latents[name] for name, full in names.items()}
        if self._masked:
            height, width = latents["mean"].shape[-2:]
            row["mask_NVHW"] = _masks(self._pictures[i], self._dataset, self._transform, height, width)
        self._files[self._pictures[i].size].put(self._rows[i], row)


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
