"""Toy worlds for the evaluation's tests: real CLIP classes of a few thousand weights, and folders of small pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eval.config import EvaluationConfig
from eval.images import pixel_digest
from eval.score import Weights, score_metrics
from eval.scorers.base import Metric
from tests.eval.pages import Page

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

    def storyboards(
        self, folder: Path, painter: Painter, boards: Mapping[str, Sequence[str]], replicates: int = 1, alone: int = 0
    ) -> Path:
        """An image set of boards, frame by frame, after `alone` prompts that are no frames."""
        frames = [
            (name, number, words) for name, board in boards.items() for number, words in enumerate(board, start=1)
        ]
        prompts = [*PROMPTS[:alone], *(words for _, _, words in frames)]
        path = self.image_set(folder, painter, prompts, replicates) / "records.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines[alone * replicates :]:
            name, number, _ = frames[int(line["prompt_id"][1:]) - alone]
            seed = 100 * list(boards).index(name) + line["replicate"]
            line |= {"storyboard": name, "frame": number, "category": name, "seed": seed}
        self.lines(path, lines)
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
def toy_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Mapping[str, Path]]:
    """Metric -> weight field -> toy weights."""

    @cache
    def written(name: str) -> Mapping[str, Path]:
        found: Mapping[str, Path] = reference_of(name).weights(tmp_path_factory.mktemp(name))
        return found

    return written


def reference_of(name: str) -> Any:
    """The module with a metric's toy weights and slow reference."""
    return import_module(f"tests.eval.references.{name}")


@pytest.fixture(scope="session")
def clip_folder(toy_weights: Callable[[str], Mapping[str, Path]]) -> Path:
    return toy_weights("clip_score")["model"]


@pytest.fixture(scope="session")
def squeeze_trunk(toy_weights: Callable[[str], Mapping[str, Path]]) -> Path:
    return toy_weights("lpips")["trunk"]


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
def score() -> Callable[..., Path]:
    """Score one or two sets by one or several metrics, with the weights that they name; the keywords are
    `score_metrics`'s."""

    def run(metrics: Metric | Sequence[Metric], out: Path, *, references: Path | None = None, **more: Any) -> Path:
        asked = (metrics,) if isinstance(metrics, Metric) else tuple(metrics)
        sets = {role: more.pop(role) for role in ("base", "candidate") if role in more}
        more = {"cells": {}, "weights": {metric.id: located(metric) for metric in asked}, **more}
        score_metrics(metrics=asked, sets=sets, references=references, out=out, device="cpu", **more)
        return out

    return run


def located(metric: Metric) -> Weights:
    places = {field: Path(place) for field, place in metric.locations().items()}
    return Weights(places, {field: f"digest of {place}" for field, place in places.items()})


@pytest.fixture(scope="session")
def score_all(score: Callable[..., Path]) -> Callable[..., Path]:
    """The score artifact that comparing `base` with `candidate` takes."""

    def run(evaluation: EvaluationConfig, base: Path, candidate: Path, references: Path, out: Path) -> Path:
        return score(evaluation.metrics, out / "scores", base=base, candidate=candidate, references=references)

    return run


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    """Of the report that the module's own fixture `built` has made."""
    return Page((built / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def document(built: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((built / "report.json").read_text(encoding="utf-8"))
    return found
