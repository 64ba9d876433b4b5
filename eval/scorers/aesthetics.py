"""LAION Aesthetics: how well would people like the picture, whatever it shows?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from eval.clip import ClipVision, embedding_width
from eval.embeddings import vector_D
from eval.errors import EvalError
from eval.questions import Answers, about_each
from eval.scorers.base import Direction, Judge, Metric, Resources, Sample, Score
from eval.tensors import read_tensors

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

LINEAR_LAYERS = (0, 2, 4, 6, 7)
"""Numbers of the linear layers in LAION's head; between them is only dropout, which does nothing here. A head with
ReLUs in between has other numbers."""
PARTS = ("weight", "bias")

# D: width of the embedding space, K: width of a layer's input


class Aesthetics(Metric):
    """An affine map of the unit-length CLIP embedding, made to predict people's ratings from 1 to 10.

    LAION Aesthetics V2, Schuhmann et al. 2022 (arXiv:2210.08402), section 3.3, and improved-aesthetic-predictor.
    """

    title: ClassVar[str] = "Aesthetics"
    direction: ClassVar[Direction] = 1
    unit: ClassVar[str] = "points"
    convention: ClassVar[str] = (
        "LAION Aesthetics V2: affine head on the unit-length CLIP ViT-L/14 embedding, trained on ratings from 1 to 10, "
        "not clamped; knows nothing of the prompt"
    )
    licence: ClassVar[str] = "head Apache-2.0; OpenAI's CLIP MIT"
    trained_on: ClassVar[tuple[str, ...]] = ("Simulacra Aesthetic Captions", "LAION-Logos", "AVA", "OpenAI's WIT")
    decimals: ClassVar[int] = 2
    tie: ClassVar[float] = 1e-4
    version: ClassVar[int] = 1
    weight_fields: ClassVar[tuple[str, ...]] = ("model", "head")
    weights_from: ClassVar[str] = (
        "the CLIP from the hub, openai/clip-vit-large-patch14; "
        "the head from GitHub, christophschuhmann/improved-aesthetic-predictor"
    )

    metric: Literal["aesthetics"]
    model: str
    """Folder or hub id of the transformers CLIP model that the head was trained on: `openai/clip-vit-large-patch14`."""
    revision: str | None = None
    """Hub commit or tag of the CLIP model."""
    head: str
    """File: LAION's `sac+logos+ava1-l14-linearMSE.pth`, or .safetensors with its five layers or with one `weight` of
    the embedding's width and one `bias`."""

    def judge(self, resources: Resources) -> Judge:
        place = resources.weights["model"]
        vision = ClipVision(place, resources.digests["model"], resources.device)
        weight_D, bias = read_head(resources.weights["head"])
        if len(weight_D) != (width := embedding_width(place)):
            raise EvalError(
                f"aesthetics.head: made for embeddings of width {len(weight_D)}; {place.name} makes width {width}. "
                "Set aesthetics.model to the CLIP that the head was trained on"
            )

        def score(sample: Sample, answers: Answers) -> Score:
            (picture,) = sample.pictures
            return Score(float(weight_D @ vector_D(answers(vision, picture))) + bias)

        return Judge(score, about_each(vision))


def read_head(path: Path) -> tuple[NDArray[np.float64], float]:
    """-> weight (D) and bias of the affine map.

    Raises:
        EvalError: the file is not such a head.
    """
    tensors = read_tensors(path)
    layers = [tuple(f"layers.{number}.{part}" for part in PARTS) for number in LINEAR_LAYERS]
    if tensors.keys() == set(PARTS):
        layers = [PARTS]
    elif tensors.keys() != {name for layer in layers for name in layer}:
        raise EvalError(
            f"{path.name}: expected linear layers {LINEAR_LAYERS} as `layers.N.weight` and `layers.N.bias`, or one "
            f"`weight` and one `bias`; got {sorted(tensors)}. A head with activations is another metric"
        )
    try:
        return _folded([(tensors[weight], tensors[bias]) for weight, bias in layers])
    except ValueError as problem:
        raise EvalError(f"{path.name}: its layers do not make one number of an embedding ({problem})") from problem


def _folded(layers: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[NDArray[np.float64], float]:
    """W3 (W2 (W1 x + b1) + b2) + b3 = (W3 W2 W1) x + (W3 W2 b1 + W3 b2 + b3), from the last layer back."""
    import numpy as np

    row_1K, total = np.ones((1, 1)), 0.0
    for weight, bias in reversed(layers):
        total += (row_1K @ np.atleast_1d(bias.double().numpy())).item()
        row_1K = row_1K @ np.atleast_2d(weight.double().numpy())
    return row_1K[0], total
