"""Captions as the UNet sees them: encoded once per unique text."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdxl_core.ahead import in_order
from sdxl_core.captions import encoded_captions
from sdxl_core.config import CaptionsConfig
from sdxl_core.data.records import iter_records
from sdxl_core.encoding import Stages, encode_batches, filled_up, in_batches
from sdxl_core.model import zeros_for_empty_prompt
from sdxl_core.runtime import choose_device
from sdxl_core.tensor_files import RowFile, cell_key, pack, unpack
from sdxl_core.text_encoders import TextEncoders, Tokenizers

# U texts, N encoders, S tokens (77 a chunk), E text width, P pooled width (0 where there is no pooled text)

VERSION = 2
ROWS_AT_ONCE = {"cpu": 1, "cuda": 32}
"""Captions. On a CPU alone, as they always were: other numbers move last bits."""


class Encoder:
    """Texts -> conditioning on the CPU, float32, for what is encoded once. `rows` texts go through at once."""

    def __init__(self, model: Path, device: torch.device, max_chunks: int = 1, rows: int | None = None) -> None:
        self.device = device
        self.max_chunks = max_chunks
        self.rows = rows or ROWS_AT_ONCE[device.type]
        self.tokenizers = Tokenizers.load(model)
        self.encoders = TextEncoders.load(model, device)
        self.zeros = zeros_for_empty_prompt(model)

    def __call__(self, text: str) -> tuple[Tensor, Tensor]:
        """-> text_SE, pooled_P of one text."""
        [encoded] = self.batch([self.tokens(text)])
        return encoded["text"].cpu(), encoded["pooled"].cpu()

    def tokens(self, text: str) -> Tokens:
        return Tokens(self.tokenizers.chunks(text, self.max_chunks), 0.0 if self.zeros and text == "" else 1.0)

    @torch.no_grad()
    def batch(self, texts: Sequence[Tokens]) -> list[dict[str, Tensor]]:
        """At most `rows` texts of as many chunks -> text (S, E) and pooled (P) of each, on the device."""
        ids_BNKT = filled_up(torch.stack([text.ids_NKT for text in texts]), self.rows)
        text_BSE, pooled_BP = self.encoders(ids_BNKT.to(self.device, non_blocking=True))
        return [{"text": text_BSE[i] * t.kept, "pooled": pooled_BP[i] * t.kept} for i, t in enumerate(texts)]


@dataclass(frozen=True)
class Tokens:
    """A text, ready for the encoders."""

    ids_NKT: Tensor
    kept: float
    """0 where the checkpoint stands for no text by zeros."""


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
    rows: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Encode every caption of `datasets`, and the `extra` ones, once, into `text.safetensors` and `captions.json`.

    Row 0 is what stands for no caption. `rows` captions go through the encoders at once (default: by the device).
    Returns {"captions", "encoded", "reused"}: all texts but the empty one; those not in `cells` before, and those in.
    """
    where = choose_device(device)
    found = {record.text for folder in datasets for record in iter_records(folder)} | set(extra)
    texts, places = encoded_captions(found, captions)
    zeros, max_chunks = zeros_for_empty_prompt(model), captions.max_chunks
    parts: dict[str, object] = {"what": "text", "version": VERSION, "model": model_digest, "zeros": zeros}
    parts |= {"max_chunks": max_chunks} if max_chunks > 1 else {}
    keys = [cell_key(**parts, caption=text) for text in texts]
    chunks = _chunks(model, texts, max_chunks)
    out.mkdir(parents=True, exist_ok=True)
    with closing(TextFile(out / "text.safetensors", chunks)) as file:
        job = _Job(texts, keys, chunks, cells, file)
        missing = job.reuse()
        if missing:
            job.encode(missing, Encoder(model, where, max_chunks, rows), progress)
    described = json.dumps({"texts": texts, "captions": places}, ensure_ascii=False, indent=1)
    (out / "captions.json").write_text(described + "\n", encoding="utf-8")
    return {"captions": len(texts) - 1, "encoded": len(missing), "reused": len(texts) - len(missing)}


@dataclass(frozen=True)
class _Job:
    """Texts, each with its key and how many chunks it fills."""

    texts: Sequence[str]
    keys: Sequence[str]
    chunks: Sequence[int]
    cells: MutableMapping[str, bytes]
    file: TextFile

    def reuse(self) -> list[int]:
        """Put what is in the cells into the file; returns the places of what is not."""
        there = in_order(self._reuse, range(len(self.texts)))
        return [i for i, found in enumerate(there) if not found]

    def _reuse(self, i: int) -> bool:
        if (data := self.cells.get(self.keys[i])) is not None:
            self.file.put(i, unpack(data))
        return data is not None

    def encode(self, missing: Sequence[int], encoder: Encoder, progress: Callable[[int, int], None]) -> None:
        alike = [[i for i in missing if self.chunks[i] == count] for count in sorted(set(self.chunks))]
        batches = [batch for places in alike for batch in in_batches(places, encoder.rows)]

        def prepare(i: int) -> Tokens:
            return encoder.tokens(self.texts[i])

        def store(i: int, encoded: dict[str, Tensor]) -> None:
            self.cells[self.keys[i]] = pack(encoded)
            self.file.put(i, encoded)

        # one thread: tokenizers are not made for several
        encode_batches(batches, Stages(prepare, encoder.batch, store, workers=1), progress)


def _chunks(model: Path, texts: Sequence[str], max_chunks: int) -> list[int]:
    """How many chunks each text fills."""
    if max_chunks == 1:
        return [1] * len(texts)
    tokenizers = Tokenizers.load(model)
    return [tokenizers.chunks(text, max_chunks).shape[1] for text in texts]


class TextFile:
    """`text.safetensors`, filled text by text in any order.

    Texts of fewer chunks than the longest are followed by zeros, and `lengths_U` says where they end.
    """

    def __init__(self, path: Path, chunks: Sequence[int]) -> None:
        self._file, self._chunks, self._longest = RowFile(path, len(chunks)), chunks, max(chunks)

    def put(self, i: int, encoded: Mapping[str, Tensor]) -> None:
        text_SE = encoded["text"]
        length = len(text_SE)
        longest = length // self._chunks[i] * self._longest
        padded = torch.from_numpy(np.pad(text_SE.numpy(), ((0, longest - length), (0, 0))))  # as Stages says
        row = {"text_USE": padded, "pooled_UP": encoded["pooled"], "lengths_U": torch.tensor(length)}
        self._file.put(i, row)

    def close(self) -> None:
        self._file.close()
