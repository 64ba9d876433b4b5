"""Captions as SDXL sees them: encoded once per unique text."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, MutableMapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from sdxl_core.captions import encoded_captions
from sdxl_core.config import CaptionsConfig
from sdxl_core.data.records import read_records
from sdxl_core.model import zeros_for_empty_prompt
from sdxl_core.runtime import choose_device
from sdxl_core.tensor_files import cell_key, pack, unpack, write_tensors
from sdxl_core.text_encoders import TextEncoders, Tokenizers

# U texts, S tokens (77 a chunk), E text width (2048), P pooled width (1280)

VERSION = 2


class Encoder:
    """Texts -> conditioning on the CPU, float32, for what is encoded once."""

    def __init__(self, model: Path, device: torch.device, max_chunks: int = 1) -> None:
        self.device = device
        self.max_chunks = max_chunks
        self.tokenizers = Tokenizers.load(model)
        self.encoders = TextEncoders.load(model, device)
        self.zeros = zeros_for_empty_prompt(model)

    @torch.no_grad()
    def __call__(self, text: str) -> tuple[Tensor, Tensor]:
        """-> text_SE, pooled_P of one text alone: company in a batch would move its last bits."""
        ids_12KT = self.tokenizers.chunks(text, self.max_chunks)[None].to(self.device)
        text_1SE, pooled_1P = self.encoders(ids_12KT)
        kept = 0.0 if self.zeros and text == "" else 1.0
        return text_1SE[0].cpu() * kept, pooled_1P[0].cpu() * kept


def encode_text(
    *,
    datasets: Sequence[Path],
    model: Path,
    model_digest: str,
    out: Path,
    cells: MutableMapping[str, bytes],
    captions: CaptionsConfig = CaptionsConfig(),
    extra: Collection[str] = (),
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Encode every caption of `datasets`, and the `extra` ones, once, into `text.safetensors` and `captions.json`.

    Row 0 is what stands for no caption. Returns {"captions", "encoded"}: all texts, and those not in `cells` before.
    """
    found = {record.text for folder in datasets for record in read_records(folder)} | set(extra)
    texts, rows = encoded_captions(found, captions)
    zeros, chunks = zeros_for_empty_prompt(model), captions.max_chunks
    parts = {"what": "text", "version": VERSION, "model": model_digest, "zeros": zeros}
    parts |= {"max_chunks": chunks} if chunks > 1 else {}
    keys = [cell_key(**parts, caption=text) for text in texts]
    missing = [i for i, key in enumerate(keys) if key not in cells]
    encoder = Encoder(model, choose_device(device), chunks) if missing else None
    for done, i in enumerate(missing, start=1):
        assert encoder is not None
        text_SE, pooled_P = encoder(texts[i])
        cells[keys[i]] = pack({"text": text_SE, "pooled": pooled_P})
        progress(done, len(missing))
    _write(out, [unpack(cells[key]) for key in keys])
    described = json.dumps({"texts": texts, "captions": rows}, ensure_ascii=False, indent=1)
    (out / "captions.json").write_text(described + "\n", encoding="utf-8")
    return {"captions": len(texts) - 1, "encoded": len(missing)}


def _write(out: Path, records: Sequence[dict[str, Tensor]]) -> None:
    """Texts of fewer chunks than the longest are followed by zeros, and `lengths_U` says where they end."""
    lengths = [len(record["text"]) for record in records]
    padded = [functional.pad(r["text"], (0, 0, 0, max(lengths) - len(r["text"]))) for r in records]
    out.mkdir(parents=True, exist_ok=True)
    stacked = {
        "text_USE": torch.stack(padded),
        "pooled_UP": torch.stack([record["pooled"] for record in records]),
        "lengths_U": torch.tensor(lengths),
    }
    write_tensors(out / "text.safetensors", stacked)
