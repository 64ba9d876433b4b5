"""Which file of a face pack is what, and what the identity loss asks of it. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path

from sdxl_core.errors import UserError
from sdxl_core.identity.onnx_graph import OnnxGraph, read_graph
from sdxl_core.training_config import IdentityLossConfig

WHERE = "training.consistency.identity_loss"
TEMPLATE_PX = 112
"""Side of the aligned face that ArcFace and its like are trained on."""
LICENCE = "the packs of insightface are licensed for non-commercial research only"


def find_recogniser(place: Path) -> Path:
    """The recogniser that `face_model` names: the file itself, or the one in a pack's folder.

    Raises:
        UserError: there is none or more than one, it recognises no faces, or the package that reads it is missing.
    """
    if place.is_file():
        require_recogniser(read_graph(place, with_constants=False))
        return place
    models = sorted(place.glob("*.onnx"))
    found = [model for model in models if recognises(read_graph(model, with_constants=False))]
    if len(found) != 1:
        raise UserError.about(
            f"{WHERE}.face_model",
            expected="a face recogniser (./buffalo_l/w600k_r50.onnx), or a folder with one",
            got=f"{' and '.join(model.name for model in found) or 'none'} in {place}",
            fix="Name the file" if found else "",
        )
    return found[0]


def require_recogniser(graph: OnnxGraph) -> None:
    """Raises UserError for a model that does not turn aligned faces into vectors."""
    if not recognises(graph):
        shapes = ", ".join(str(shape) for shape in graph.input_shapes.values())
        raise UserError.about(
            f"{WHERE}.face_model {graph.path}",
            expected=f"a face recogniser: pictures of 3 x {TEMPLATE_PX} x {TEMPLATE_PX} in, one vector each out",
            got=f"inputs of {shapes}, {len(graph.output_ranks)} outputs",
        )


def recognises(graph: OnnxGraph) -> bool:
    """Whether a model turns aligned faces into one vector each."""
    shapes, ranks = list(graph.input_shapes.values()), list(graph.output_ranks.values())
    return ranks == [2] and len(shapes) == 1 and shapes[0][1:] == (3, TEMPLATE_PX, TEMPLATE_PX)


def finds_landmarks(graph: OnnxGraph) -> bool:
    """Whether a model has a face detector's outputs: scores, boxes and points for three strides or five (SCRFD)."""
    return len(graph.output_ranks) in (9, 15)


def require_timesteps(config: IdentityLossConfig | None, there_are: int) -> None:
    """Raises UserError for a limit beyond the noise schedule."""
    if config is not None and config.max_timestep > there_are:
        what = f"at most {there_are}, all there are"
        raise UserError.about(f"{WHERE}.max_timestep", expected=what, got=config.max_timestep)
