"""A face recogniser that gradients go through: the ONNX model of a face pack, computed in torch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdxl_core.errors import UserError
from sdxl_core.identity.face_model import WHERE, require_recogniser
from sdxl_core.identity.onnx_graph import Node, OnnxGraph, float_array, read_graph
from sdxl_core.identity.onnx_ops import OPS, UnsupportedError, require_known

# B faces, D width of the embedding

FIRST_NODES = 8
"""insightface looks so far for a normalisation inside the graph."""


class FaceRecogniser(nn.Module):
    """ArcFace (Deng et al. 2019, arXiv:1801.07698) or its like, frozen, float32."""

    def __init__(self, graph: OnnxGraph) -> None:
        """
        Raises:
            UserError: the graph has operations that are not known, or is no recogniser of aligned faces.
        """
        super().__init__()
        self.path = graph.path
        require_recogniser(graph)
        require_known(graph.path, {node.op for node in graph.nodes})
        values = {name: torch.from_numpy(float_array(value).copy()) for name, value in graph.constants.items()}
        for node in graph.nodes:
            if node.op == "Constant" and "value" in node.attributes:
                values[node.outputs[0]] = torch.from_numpy(float_array(node.attributes["value"]).copy())
        self.nodes = [node for node in graph.nodes if node.outputs[0] not in values]
        self.integers = {name: value for name, value in values.items() if not value.is_floating_point()}
        self.places = {name: f"constant_{i}" for i, name in enumerate(values) if name not in self.integers}
        for name, place in self.places.items():
            self.register_buffer(place, values[name])
        self.input, self.output = next(iter(graph.input_shapes)), next(iter(graph.output_ranks))
        self.takes_bytes = _normalises(graph.nodes)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> FaceRecogniser:
        """Raises UserError as `read_graph` and the class do."""
        return cls(read_graph(path)).to(device).eval()

    def forward(self, faces_B3HW: Tensor) -> Tensor:
        """Aligned faces, RGB in [-1, 1], 112 x 112 px -> embeddings of length 1, B x D."""
        x = faces_B3HW * 127.5 + 127.5 if self.takes_bytes else faces_B3HW  # insightface: (px - 127.5) / 127.5
        values: dict[str, Tensor] = {**self.integers, self.input: x}
        values |= {name: self.get_buffer(place) for name, place in self.places.items()}
        for node in self.nodes:
            values[node.outputs[0]] = self._compute(node, [values[name] if name else None for name in node.inputs])
        return F.normalize(values[self.output])

    def _compute(self, node: Node, inputs: list[Tensor | None]) -> Tensor:
        try:
            return OPS[node.op](inputs, node.attributes)
        except UnsupportedError as error:
            raise UserError.about(
                f"{WHERE}.face_model {self.path}: {node.op} {node.name!r}",
                expected="what can be differentiated here",
                got=error,
            ) from None


def _normalises(nodes: tuple[Node, ...]) -> bool:
    """Whether the graph wants bytes (0 ... 255): insightface tells by the names of its first nodes."""
    names = [node.name for node in nodes[:FIRST_NODES]]
    subtracts = any(name.startswith(("Sub", "_minus")) for name in names)
    return subtracts and any(name.startswith(("Mul", "_mul")) for name in names)
