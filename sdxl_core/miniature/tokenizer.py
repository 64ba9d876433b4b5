"""The miniature's CLIP byte-pair tokenizer, learned from the world's own captions."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

END_OF_WORD = "</w>"
MAX_TOKENS = 77  # as in SDXL: start, 75 tokens of text, end
START, END = "<|startoftext|>", "<|endoftext|>"


def learn_tokenizer(captions: Iterable[str], merges: int = 400) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Learn at most `merges` byte-pair merges and build SDXL's two tokenizers, which share them.

    The vocabulary is laid out as OpenAI's CLIP lays out its own: 256 bytes, the same bytes ending a word, the merges
    in order, the two special tokens; so any text at all can be tokenized. As in SDXL, the first tokenizer pads with
    the end token and the second with "!".
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(BPE(end_of_word_suffix=END_OF_WORD))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Punctuation("isolated")]
    )
    learner.decoder = decoders.BPEDecoder(suffix=END_OF_WORD)
    trainer = BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        end_of_word_suffix=END_OF_WORD,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    pairs = [tuple(pair) for pair in _merges(learner)][:merges]
    tokens = [*alphabet, *(c + END_OF_WORD for c in alphabet), *("".join(pair) for pair in pairs), START, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    first, second = (
        CLIPTokenizer(vocab=dict(vocabulary), merges=list(pairs), model_max_length=MAX_TOKENS, pad_token=pad)
        for pad in (END, "!")
    )
    return first, second


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    import json

    model: dict[str, list[list[str]]] = json.loads(tokenizer.to_str())["model"]
    return model["merges"]
