"""SDXL's two tokenizers and text encoders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn
from transformers import CLIPTokenizer

from sdxl_core.model import load_text_encoders
from sdxl_core.training_config.text import TOKEN

# B captions, 2 encoders, K chunks, T tokens of a chunk (77), S = K T, E text width (2048), P pooled width (1280)

NAMES = ("text_encoder", "text_encoder_2")


class Tokenizers:
    """Captions -> token ids for both encoders."""

    def __init__(self, first: CLIPTokenizer, second: CLIPTokenizer) -> None:
        self.both = (first, second)
        self._pieces: dict[str, list[str]] = {}

    @staticmethod
    def load(model: Path) -> Tokenizers:
        return Tokenizers(*(CLIPTokenizer.from_pretrained(model, subfolder=f"tokenizer{n}") for n in ("", "_2")))

    @staticmethod
    def of(pipeline: StableDiffusionXLPipeline) -> Tokenizers:
        """A pipeline's own, with the tokens that were loaded into it."""
        found = Tokenizers(pipeline.tokenizer, pipeline.tokenizer_2)
        added = list(pipeline.tokenizer.added_tokens_encoder)
        for token in (name for name in added if re.fullmatch(TOKEN, name)):
            further = re.compile(re.escape(token) + r"_\d+")
            found._pieces[token] = [token, *(name for name in added if further.fullmatch(name))]
        return found

    def add(self, token: str, vectors: int) -> list[int]:
        """Make `token` a word of both vocabularies; returns its ids, the same in both.

        Further vectors are words of their own, `<token>_1`, `<token>_2`, ..., as diffusers names them.
        """
        pieces = [token, *(f"{token}_{i}" for i in range(1, vectors))]
        for tokenizer in self.both:
            tokenizer.add_tokens(pieces)
        self._pieces[token] = pieces
        ids: list[int] = self.both[0].convert_tokens_to_ids(pieces)
        assert ids == self.both[1].convert_tokens_to_ids(pieces), "both vocabularies are as large"
        return ids

    def words(self, caption: str, *, tokenizer: int = 0) -> list[int]:
        """Ids of a caption alone, without start and end, however many."""
        if self._pieces:
            names = "|".join(map(re.escape, self._pieces))
            caption = re.sub(names, lambda found: " ".join(self._pieces[found[0]]), caption)
        ids: list[int] = self.both[tokenizer](caption, add_special_tokens=False, verbose=False).input_ids
        return ids

    def chunks(self, caption: str, max_chunks: int = 1) -> Tensor:
        """ids_2KT: as many chunks as the caption fills, at least one; what `max_chunks` cannot hold is cut off."""
        both = [list(self._chunked(n, caption, max_chunks)) for n in range(2)]
        longest = max(map(len, both))
        padded = [chunks + [self._chunk(n, [])] * (longest - len(chunks)) for n, chunks in enumerate(both)]
        return torch.tensor(padded)

    def batch(self, texts: Sequence[str], max_chunks: int = 1) -> tuple[Tensor, Tensor]:
        """ids_B2KT as long as the longest text, and how many tokens of each are its own (lengths_B).

        What is shorter is followed by chunks of the empty text.
        """
        ids_2KT = [self.chunks(text, max_chunks) for text in texts]
        most, empty_21T = max(ids.shape[1] for ids in ids_2KT), self.chunks("")
        padded = [torch.cat([ids, empty_21T.expand(-1, most - ids.shape[1], -1)], dim=1) for ids in ids_2KT]
        return torch.stack(padded), torch.tensor([ids[0].numel() for ids in ids_2KT])

    def _chunked(self, n: int, caption: str, max_chunks: int) -> Iterator[list[int]]:
        ids, room = self.words(caption, tokenizer=n), self.both[n].model_max_length - 2
        for start in range(0, min(max(1, len(ids)), max_chunks * room), room):
            yield self._chunk(n, ids[start : start + room])

    def _chunk(self, n: int, ids: Sequence[int]) -> list[int]:
        tokenizer = self.both[n]
        whole = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        return whole + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(whole))


class TextEncoders:
    """Token ids -> SDXL's text conditioning (Podell et al. 2023, section 2.1).

    The next-to-last hidden states of both encoders side by side, without a final norm, and the second encoder's
    projected embedding of the first chunk.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        self.both = (first, second)

    @staticmethod
    def load(model: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> TextEncoders:
        loaded = load_text_encoders(model, dtype)
        return TextEncoders(*(loaded[name].to(device).eval().requires_grad_(False) for name in NAMES))

    def __call__(self, ids_B2KT: Tensor) -> tuple[Tensor, Tensor]:
        """-> text_BSE, pooled_BP, on the device of the ids."""
        B, _, K, _ = ids_B2KT.shape
        states, pooled_BP = [], torch.empty(0)
        for n, encoder in enumerate(self.both):
            out: Any = encoder(ids_B2KT[:, n].flatten(0, 1), output_hidden_states=True)
            states.append(out.hidden_states[-2].unflatten(0, (B, K)).flatten(1, 2))
            pooled_BP = out[0].unflatten(0, (B, K))[:, 0] if n else pooled_BP
        return torch.cat(states, dim=-1), pooled_BP
