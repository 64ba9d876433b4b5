"""Toy worlds for the evaluation's tests: real CLIP classes of a few thousand weights, and folders of small pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.config import EvaluationConfig
from eval.images import pixel_digest
from eval.score import score_metric
from eval.scorers.base import Metric

torch.set_num_threads(1)
PROMPTS = tuple(f"a photo of a person {number} in a {place}" for number, place in enumerate(["city", "forest"] * 6))
Painter = Callable[[int, int], np.ndarray]
"""(number of the prompt, replicate) -> uint8 HWC picture."""


class Toys:
    """Writes what other stages would: image sets, datasets, training runs."""

    def paint(self, seed: int, side_px: int = 32) -> Painter:
        """Blurred noise that depends on `seed`, the prompt and the replicate."""

        def picture(prompt: int, replicate: int) -> np.ndarray:
            noise = np.random.default_rng([seed, prompt, replicate]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            return np.asarray(Image.fromarray(noise).resize((side_px, side_px), Image.Resampling.BICUBIC))

        return picture

    def image_set(
        self, folder: Path, painter: Painter, prompts: Sequence[str] = PROMPTS, replicates: int = 1, digest: str = "0"
    ) -> Path:
        (folder / "images").mkdir(parents=True)
        lines = []
        for number, prompt in enumerate(prompts):
            for replicate in range(replicates):
                image = Image.fromarray(painter(number, replicate))
                name = f"images/p{number}-{replicate}.png"
                image.save(folder / name)
                lines.append(
                    {
                        "file": name,
                        "prompt_id": f"p{number}",
                        "prompt": prompt,
                        "category": ("even", "odd")[number % 2],
                        "replicate": replicate,
                        "seed": 1000 * number + replicate,
                        "image_sha256": pixel_digest(image),
                    }
                )
        self.lines(folder / "records.jsonl", lines)
        facts = {"model": {"digest": digest}, "sampling": {"steps": 20, "guidance_scale": 5.0}}
        (folder / "set.json").write_text(json.dumps(facts))
        return folder

    def dataset(self, folder: Path, pictures: Sequence[np.ndarray]) -> Path:
        (folder / "images").mkdir(parents=True)
        lines = []
        for number, picture in enumerate(pictures):
            path = folder / f"images/{number}.png"
            Image.fromarray(picture).save(path)
            lines.append({"image": f"images/{number}.png", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
        self.lines(folder / "records.jsonl", lines)
        return folder

    def training(self, folder: Path, prompts: Sequence[str]) -> Path:
        (folder / "validation").mkdir(parents=True)
        history = [{"step": step, "loss": 1 / step, "learning_rate": 1e-4, "grad_norm": 0.5} for step in range(1, 30)]
        self.lines(folder / "history.jsonl", history)
        (folder / "training.json").write_text(json.dumps({"validation_prompts": list(prompts)}))
        for step in (10, 9):
            for place in range(len(prompts)):
                Image.fromarray(self.paint(step)(place, 0)).save(folder / f"validation/{step}-{place}.png")
        return folder

    def lines(self, path: Path, lines: Sequence[object]) -> None:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="session")
def toys() -> Toys:
    return Toys()


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIPModel folder with processor and byte-level tokenizer; random weights, real classes."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=77
    )
    torch.manual_seed(0)
    width = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 12,
    }
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = CLIPModel(
        CLIPConfig(
            text_config={**width, "vocab_size": len(tokenizer), "max_position_embeddings": 77, **special},
            vision_config={**width, "image_size": 32, "patch_size": 8},
            projection_dim=12,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.eval().save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size), tokenizer=tokenizer
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def squeeze_trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file
    from torchvision.models import squeezenet1_1

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("trunk") / "trunk.safetensors"
    save_file(squeezenet1_1(weights=None).features.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def weights_of(clip_folder: Path, squeeze_trunk: Path) -> dict[str, Path]:
    """Weight field -> toy weights, for every weight field that any metric has."""
    return {"model": clip_folder, "trunk": squeeze_trunk}


@pytest.fixture(scope="session")
def evaluation(clip_folder: Path, squeeze_trunk: Path) -> EvaluationConfig:
    return EvaluationConfig.model_validate(
        {
            "prompts": "prompts.jsonl",
            "replicates": 2,
            "seed": 7,
            "resamples": 999,
            "metrics": [
                {"metric": "clip_i", "model": str(clip_folder), "primary": True},
                {"metric": "clip_score", "model": str(clip_folder), "primary": True},
                {"metric": "lpips", "net": "squeeze", "trunk": str(squeeze_trunk), "linear": False},
                {"metric": "ssim"},
            ],
        }
    )


@pytest.fixture(scope="session")
def score(weights_of: dict[str, Path]) -> Callable[..., Path]:
    """Score one or two sets with toy weights; the keywords are `score_metric`'s."""

    def run(metric: Metric, out: Path, **inputs: object) -> Path:
        weights = {field: weights_of[field] for field in metric.locations()}
        digests = {field: f"digest of {field}" for field in weights}
        inputs.setdefault("cells", {})
        score_metric(metric=metric, weights=weights, weights_digests=digests, out=out, device="cpu", **inputs)
        return out

    return run


@pytest.fixture(scope="session")
def score_all(score: Callable[..., Path]) -> Callable[..., list[Path]]:
    """All score artifacts that comparing `base` with `candidate` takes."""

    def run(evaluation: EvaluationConfig, base: Path, candidate: Path, references: Path, out: Path) -> list[Path]:
        cells: dict[str, bytes] = {}
        folders = []
        for metric in evaluation.metrics:
            both = [{"base": base, "candidate": candidate}]
            each = [{"base": base}, {"candidate": candidate}]
            for place, sets in enumerate(both if metric.needs == "pair" else each):
                folder = out / f"{metric.id}-{place}"
                folders.append(score(metric, folder, references=references, cells=cells, **sets))
        return folders

    return run
