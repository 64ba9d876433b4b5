"""ImageReward: would people prefer the picture, given its prompt?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from eval.cells import cell_key, number, number_bytes
from eval.errors import EvalError
from eval.images import GeneratedImage, Picture
from eval.questions import Answers, Question, about_each
from eval.scorers.base import Direction, Judge, Metric, Resources, Sample, Score
from eval.vision import quiet_transformers

if TYPE_CHECKING:
    import torch
    from PIL import Image

MAX_TOKENS = 35
SPECIAL_TOKENS = 2
"""BLIP's own, [DEC] and [ENC], at the vocabulary's end; no prompt has them, and BERT's tokenizer does without."""
PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WEIGHTS, MED_CONFIG = "ImageReward.pt", "med_config.json"
VOCABULARIES = ("tokenizer.json", "vocab.txt")


class ImageReward(Metric):
    """The reward that Xu et al. 2023 (arXiv:2304.05977) learned from rankings by people, version 1.0."""

    title: ClassVar[str] = "ImageReward"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "reward"
    convention: ClassVar[str] = (
        "(reward - 0.16717) / 1.03334 as the authors' package gives it: 224 px, cut at the longer side, 35 tokens"
    )
    licence: ClassVar[str] = "Apache-2.0"
    trained_on: ClassVar[tuple[str, ...]] = ("ImageRewardDB",)
    decimals: ClassVar[int] = 3
    tie: ClassVar[float] = 1e-4
    version: ClassVar[int] = 1
    weight_fields: ClassVar[tuple[str, ...]] = ("model", "text")
    weights_from: ClassVar[str] = "from the hub, model: THUDM/ImageReward, text: google-bert/bert-base-uncased"
    weight_suffixes: ClassVar[tuple[str, ...]] = (".json", ".txt", ".safetensors", ".pt")
    hub_files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "model": (WEIGHTS, MED_CONFIG),
        "text": (MED_CONFIG, "tokenizer*.json", "vocab.txt"),
    }

    metric: Literal["image_reward"]
    model: str
    """Hub id `THUDM/ImageReward`; the file ImageReward.pt, or a .safetensors file with the same names; or a folder with
    either."""
    text: str | None = None
    """Folder or hub id with the tokenizer of bert-base-uncased: `google-bert/bert-base-uncased`. ImageReward's
    med_config.json lies in it or in `model`. Default: `model`, where that is a folder."""

    def judge(self, resources: Resources) -> Judge:
        reward = Reward(resources)

        def score(sample: Sample, answers: Answers) -> Score:
            (picture,) = sample.pictures
            return Score(number(answers(reward, picture)), truncated=reward.is_truncated(picture.prompt))

        return Judge(score, about_each(reward))


class Reward(Question["tuple[torch.Tensor, str]"]):
    """Of one generated picture for its prompt."""

    def __init__(self, resources: Resources) -> None:
        """Raises EvalError when a file is not there."""
        self._weights = _weights_file(resources.weights["model"])
        self._text, self._med_config = _text_places(resources.weights)
        self._device = resources.device
        self.spec = cell_key(
            "image-reward",
            rows=self.rows_at_once,
            weights=resources.digests["model"],
            text=resources.digests.get("text"),
            version=ImageReward.version,
        )

    def about(self, pictures: Sequence[Picture]) -> list[str]:
        return [*super().about(pictures), _prompt(pictures)]

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> tuple[torch.Tensor, str]:
        (image,) = images
        return pixels_CHW(image), _prompt(pictures)

    def answer(self, rows: Sequence[tuple[torch.Tensor, str]]) -> list[bytes]:
        import torch

        from eval.blip import rewards_B

        pixels, prompts = zip(*rows, strict=True)
        network = self._network
        ids = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            found_B = rewards_B(network, torch.stack(pixels).to(self._device), ids.input_ids, ids.attention_mask)
        return [number_bytes(value) for value in found_B.tolist()]

    def free(self) -> None:
        self.__dict__.pop("_network", None)

    def is_truncated(self, prompt: str) -> bool:
        return len(self._tokenizer(prompt, verbose=False).input_ids) > MAX_TOKENS

    @cached_property
    def _network(self) -> Any:
        from eval.blip import load_image_reward

        network = load_image_reward(self._weights, self._med_config)
        text: Any = network["text"]
        known, words = text.config.vocab_size, len(self._tokenizer)
        if not known - SPECIAL_TOKENS <= words <= known:
            raise EvalError(
                f"{self._text.name}: the tokenizer has {words} tokens, ImageReward knows {known}; expected the "
                "tokenizer of bert-base-uncased"
            )
        return network.to(self._device)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import BertTokenizer

        with quiet_transformers():
            return BertTokenizer.from_pretrained(self._text, local_files_only=True)


def pixels_CHW(image: Image.Image) -> torch.Tensor:
    """As the authors prepare a picture: short side to 224 px by PIL's bicubic filter, the middle, CLIP's colours."""
    from torchvision.transforms import InterpolationMode, functional

    from eval.blip import IMAGE_SIDE_PX

    small = functional.resize(image, [IMAGE_SIDE_PX], InterpolationMode.BICUBIC)
    pixels = functional.to_tensor(functional.center_crop(small, [IMAGE_SIDE_PX]))
    found: torch.Tensor = functional.normalize(pixels, PIXEL_MEAN, PIXEL_STD)
    return found


def _prompt(pictures: Sequence[Picture]) -> str:
    (picture,) = pictures
    assert isinstance(picture, GeneratedImage)
    return picture.prompt


def _weights_file(place: Path) -> Path:
    if place.is_file():
        return place
    found = sorted(place.glob("*.safetensors")) or sorted(place.glob("*.pt"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise EvalError(f"{place.name}: expected {WEIGHTS} or one .safetensors file in it, got {names}")
    return found[0]


def _text_places(places: Mapping[str, Path]) -> tuple[Path, Path]:
    """-> the folder of the tokenizer, the file med_config.json."""
    folder = places.get("text", places["model"])
    if not folder.is_dir():
        raise EvalError(
            f"image_reward.text: expected a folder with {MED_CONFIG} and the tokenizer of bert-base-uncased, "
            f"got {folder.name}"
        )
    configs = [place / MED_CONFIG for place in (folder, places["model"]) if (place / MED_CONFIG).is_file()]
    if not configs:
        raise EvalError(f"{folder.name}: no {MED_CONFIG} in it; it lies beside {WEIGHTS} where that comes from")
    if not any((folder / name).is_file() for name in VOCABULARIES):  # transformers would make one up
        raise EvalError(
            f"{folder.name}: no vocab.txt in it; expected the tokenizer of bert-base-uncased. Set image_reward.text to "
            "google-bert/bert-base-uncased, or to a folder with it"
        )
    return folder, configs[0]
