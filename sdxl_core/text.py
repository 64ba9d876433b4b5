"""Captions as SDXL sees them: encoded once per unique caption."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from sdxl_core.data.records import read_records
from sdxl_core.model import load_text_encoders, zeros_for_empty_prompt
from sdxl_core.runtime import choose_device
from sdxl_core.tensor_files import cell_key, pack, unpack, write_tensors

# B captions, T tokens (77), E text width (2048), P pooled width (1280)

VERSION = 2


class TextEncoders:
    """Both tokenizers and text encoders of a checkpoint, float32.

    SDXL's text conditioning (Podell et al. 2023, section 2.1): the next-to-last hidden states of both encoders side by
    side, without a final norm, and the second encoder's projected embedding.
    """

    def __init__(self, model: Path, device: torch.device) -> None:
        self.device = device
        self.tokenizers = [CLIPTokenizer.from_pretrained(model, subfolder=f"tokenizer{n}") for n in ("", "_2")]
        loaded = load_text_encoders(model, torch.float32)
        self.encoders = [loaded[name].to(device).eval() for name in ("text_encoder", "text_encoder_2")]

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """-> text_BTE, pooled_BP on the CPU, float32. Captions are cut after 77 tokens."""
        states = []
        pooled_BP = torch.empty(0)
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            ids = tokenizer(
                list(captions),
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            out = encoder(ids.to(self.device), output_hidden_states=True)
            states.append(out.hidden_states[-2])
            pooled_BP = out[0]  # the second encoder's stays: its projected text embedding
        return torch.cat(states, dim=-1).cpu(), pooled_BP.cpu()


def encode_prompts(model: Path, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """`prompts` after the unconditional row -> text_BTE, pooled_BP; the encoders are gone when this returns."""
    encoders = TextEncoders(model, device)
    text_BTE, pooled_BP = encoders.encode(["", *prompts])
    if zeros_for_empty_prompt(model):
        text_BTE[0], pooled_BP[0] = 0.0, 0.0
    del encoders
    gc.collect()
    return text_BTE, pooled_BP


def encode_text(
    *,
    datasets: Sequence[Path],
    model: Path,
    model_digest: str,
    out: Path,
    cells: MutableMapping[str, bytes],
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Encode every caption of `datasets` once, into `text.safetensors` and `captions.json`.

    Row 0 is what stands for no caption. Returns {"captions", "encoded"}: all, and those not in `cells` before.
    """
    captions = sorted({record.text for folder in datasets for record in read_records(folder)} - {""})
    rows = ["", *captions]
    zeros = zeros_for_empty_prompt(model)
    keys = [cell_key(what="text", version=VERSION, model=model_digest, caption=c, zeros=zeros) for c in rows]
    missing = [i for i, key in enumerate(keys) if key not in cells]
    encoders = TextEncoders(model, choose_device(device)) if missing else None
    for done, i in enumerate(missing, start=1):
        assert encoders is not None
        text_BTE, pooled_BP = encoders.encode([rows[i]])  # alone: company in a batch would move its last bits
        kept = 0.0 if zeros and rows[i] == "" else 1.0
        cells[keys[i]] = pack({"text": text_BTE[0] * kept, "pooled": pooled_BP[0] * kept})
        progress(done, len(missing))
    records = [unpack(cells[key]) for key in keys]
    out.mkdir(parents=True, exist_ok=True)
    stacked = {
        "text_UTE": torch.stack([r["text"] for r in records]),
        "pooled_UP": torch.stack([r["pooled"] for r in records]),
    }
    write_tensors(out / "text.safetensors", stacked)
    (out / "captions.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return {"captions": len(captions), "encoded": len(missing)}
