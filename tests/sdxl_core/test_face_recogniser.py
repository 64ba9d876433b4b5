"""Face recognisers in torch against onnxruntime, and alignment against scipy and against itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy import ndimage

from sdxl_core.errors import UserError
from sdxl_core.identity.alignment import MOST_SAMPLES, TEMPLATE_52, aligned, alignment_of
from sdxl_core.identity.face_model import find_recogniser
from sdxl_core.identity.onnx_graph import read_graph
from sdxl_core.identity.onnx_ops import OPS
from sdxl_core.identity.recogniser import FaceRecogniser
from tests.sdxl_core.face_models import Graph, colour_reader, colours_read, iresnet

CPU = torch.device("cpu")
Make = Callable[[Graph, str], str]


def faces(count: int = 3, seed: int = 0) -> NDArray[np.float32]:
    """RGB in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, 112, 112)).astype(np.float32)


def by_onnxruntime(path: Path, given: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of length 1."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"input.1": given})
    return out / np.linalg.norm(out, axis=1, keepdims=True)


@pytest.mark.parametrize("bytes_in", [False, True])
def test_an_iresnet_is_what_onnxruntime_says(tmp_path: Path, bytes_in: bool) -> None:
    """Also with its normalisation in the graph, which insightface tells by the names of its first nodes."""
    path = iresnet(tmp_path / "model.onnx", bytes_in=bytes_in)
    given = faces()
    expected = by_onnxruntime(path, given * 127.5 + 127.5 if bytes_in else given)
    ours = FaceRecogniser.load(path, CPU)(torch.from_numpy(given)).numpy()
    assert np.abs(ours - expected).max() < 1e-5
    assert np.abs(expected[0] - expected[1]).max() > 1e-2, "or any embedding would do"


def test_a_closed_form_is_what_it_says(tmp_path: Path) -> None:
    path, given = colour_reader(tmp_path / "model.onnx"), faces()
    read = colours_read(given)
    ours = FaceRecogniser.load(path, CPU)(torch.from_numpy(given)).numpy()
    assert np.allclose(ours, read / np.linalg.norm(read, axis=1, keepdims=True), atol=1e-6)
    assert np.allclose(ours, by_onnxruntime(path, given), atol=1e-6)


@pytest.mark.parametrize("make", [iresnet, colour_reader])
def test_gradients_are_those_of_finite_differences(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Through alignment and recogniser, along random directions, in double precision."""
    network = FaceRecogniser.load(make(tmp_path / "model.onnx"), CPU).double()
    picture = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (3, 90, 80)))
    matrix = torch.from_numpy(alignment_of(TEMPLATE_52 * 0.6 + [5.3, 8.1]))
    goal = network(torch.from_numpy(faces(1).astype(np.float64)))[0]

    def likeness(pixels: torch.Tensor) -> torch.Tensor:
        return (network(aligned(pixels, matrix)[None])[0] * goal).sum()

    leaf = picture.clone().requires_grad_()
    likeness(leaf).backward()
    assert leaf.grad is not None
    for seed in range(3):
        way = torch.from_numpy(np.random.default_rng(seed).normal(size=picture.shape))
        step = 1e-6
        expected = (likeness(picture + step * way) - likeness(picture - step * way)) / (2 * step)
        assert float((leaf.grad * way).sum()) == pytest.approx(float(expected), rel=1e-4, abs=1e-9)


def test_nothing_of_a_recogniser_is_trained_or_remembers(tmp_path: Path) -> None:
    network = FaceRecogniser.load(iresnet(tmp_path / "model.onnx"), CPU)
    assert not list(network.parameters())
    given = torch.from_numpy(faces())
    assert torch.equal(network(given), network(given))
    assert torch.allclose(network(given[:1]), network(given)[:1], atol=1e-6), "rows do not mix"


def axes(g: Graph, *values: int) -> str:
    return g.constant(list(values), np.int64)


def two_dimensional(g: Graph, x: str) -> str:
    """B x 12."""
    return g.op("Flatten", g.op("AveragePool", x, kernel_shape=[56, 56], strides=[56, 56]))


CASES: dict[str, list[Make]] = {
    "Add": [lambda g, x: g.op("Add", x, g.weight(1, 3, 1, 1))],
    "AveragePool": [
        lambda g, x: g.op("AveragePool", x, kernel_shape=[3, 5], strides=[2, 1]),
        lambda g, x: g.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 0, 1, 2], count_include_pad=1),
    ],
    "BatchNormalization": [lambda g, x: g.norm(x, 3)],
    "Cast": [lambda g, x: g.op("Cast", x, to=1)],
    "Clip": [
        lambda g, x: g.op("Clip", x, g.constant(-0.5), g.constant(0.25)),
        lambda g, x: g.op("Clip", x, "", g.constant(0.25)),
    ],
    "Concat": [lambda g, x: g.op("Concat", x, g.op("Relu", x), axis=1)],
    "Constant": [lambda g, x: g.op("Add", x, g.op("Constant", value=numpy_helper.from_array(np.float32([[0.5]]))))],
    "Conv": [
        lambda g, x: g.op("Conv", x, g.weight(6, 1, 3, 3), g.weight(6), group=3, pads=[1, 0, 2, 1], strides=[2, 1]),
        lambda g, x: g.op("Conv", x, g.weight(4, 3, 3, 3), dilations=[2, 3], auto_pad="VALID"),
    ],
    "Div": [lambda g, x: g.op("Div", x, g.constant(3.0))],
    "Dropout": [lambda g, x: g.op("Dropout", x)],
    "Flatten": [lambda g, x: g.op("Flatten", x, axis=-2), lambda g, x: g.op("Flatten", x, axis=2)],
    "Gather": [lambda g, x: g.op("Gather", x, axes(g, 2, -3, 1), axis=1)],
    "Gemm": [
        lambda g, x: g.op("Gemm", two_dimensional(g, x), g.weight(12, 5)),
        lambda g, x: g.op("Gemm", two_dimensional(g, x), g.weight(5, 12), g.weight(5), transB=1, alpha=0.5, beta=2.0),
    ],
    "GlobalAveragePool": [lambda g, x: g.op("GlobalAveragePool", x)],
    "Identity": [lambda g, x: g.op("Identity", x)],
    "LeakyRelu": [lambda g, x: g.op("LeakyRelu", x, alpha=0.3), lambda g, x: g.op("LeakyRelu", x)],
    "MatMul": [lambda g, x: g.op("MatMul", x, g.weight(112, 7))],
    "MaxPool": [lambda g, x: g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 2])],
    "Mul": [lambda g, x: g.op("Mul", x, g.weight(3, 1, 1))],
    "PRelu": [lambda g, x: g.op("PRelu", x, g.weight(3, 1, 1)), lambda g, x: g.op("PRelu", x, g.weight(1))],
    "Pow": [lambda g, x: g.op("Pow", x, g.constant(2.0))],
    "ReduceL2": [lambda g, x: g.op("ReduceL2", x, axes=[1], keepdims=0)],
    "ReduceMean": [lambda g, x: g.op("ReduceMean", x, axes=[2, 3]), lambda g, x: g.op("Sub", x, g.op("ReduceMean", x))],
    "ReduceSum": [lambda g, x: g.op("ReduceSum", x, axes(g, -1), keepdims=0)],
    "Relu": [lambda g, x: g.op("Relu", x)],
    "Reshape": [lambda g, x: g.op("Reshape", x, axes(g, 0, -1, 56))],
    "Shape": [lambda g, x: g.op("Reshape", x, g.op("Gather", g.op("Shape", x), axes(g, 0, 2, 3, 1)))],
    "Sigmoid": [lambda g, x: g.op("Sigmoid", x)],
    "Slice": [
        lambda g, x: g.op("Slice", x, axes(g, 5, -1), axes(g, 1000, -40), axes(g, 2, 3), axes(g, 3, -2)),
        lambda g, x: g.op("Slice", x, axes(g, 0, 1), axes(g, 5, 3)),
    ],
    "Sqrt": [lambda g, x: g.op("Sqrt", g.op("Add", x, g.constant(2.0)))],
    "Squeeze": [lambda g, x: g.op("Squeeze", g.op("GlobalAveragePool", x), axes(g, -1, 2))],
    "Sub": [lambda g, x: g.op("Sub", g.constant([[[0.5]]]), x)],
    "Tanh": [lambda g, x: g.op("Tanh", x)],
    "Transpose": [lambda g, x: g.op("Transpose", x, perm=[0, 2, 3, 1]), lambda g, x: g.op("Transpose", x)],
    "Unsqueeze": [lambda g, x: g.op("Unsqueeze", x, axes(g, 0, -1))],
}


def test_every_operation_is_compared() -> None:
    assert CASES.keys() == OPS.keys()


@pytest.mark.parametrize(("op", "case"), [(op, i) for op, makes in CASES.items() for i in range(len(makes))])
def test_an_operation_is_what_onnxruntime_says(tmp_path: Path, op: str, case: int) -> None:
    """Made one vector a picture, so that a recogniser can be asked; with gradients wherever there are any."""
    g = Graph()
    out = CASES[op][case](g, "input.1")
    head = g.op("Reshape", out, axes(g, 2, -1))
    path = g.save(tmp_path / "model.onnx", head, ["batch", "width"])
    given = faces(2)
    leaf = torch.from_numpy(given).requires_grad_()
    ours = FaceRecogniser.load(path, CPU)(leaf)
    assert np.abs(ours.detach().numpy() - by_onnxruntime(path, given)).max() < 1e-5
    ours.square().sum().backward()
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all())


def refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FaceRecogniser.load(path, CPU)


def test_what_is_no_recogniser_is_refused(tmp_path: Path) -> None:
    g = Graph()
    refused(g.save(tmp_path / "a.onnx", two_dimensional(g, "input.1"), ["batch", 3], side_px=96), "3 x 112 x 112")
    g = Graph()
    refused(g.save(tmp_path / "b.onnx", g.op("Relu", "input.1"), ["batch", 3, 112, 112]), "one vector each out")
    g = Graph()
    odd = g.op("Erf", g.op("Sin", two_dimensional(g, "input.1")))
    refused(g.save(tmp_path / "c.onnx", odd, ["batch", 12]), "got Erf, Sin. Use the recogniser of an insightface pack")
    (tmp_path / "d.onnx").write_bytes(b"\xff\xfe no model")
    refused(tmp_path / "d.onnx", "expected an ONNX model")


def test_what_of_an_operation_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    g = Graph()
    pooled = g.op("MaxPool", "input.1", kernel_shape=[56, 56], strides=[50, 50], ceil_mode=1)
    path = g.save(tmp_path / "model.onnx", g.op("Flatten", pooled), ["batch", "width"])
    with pytest.raises(UserError, match=r"MaxPool 'n0': expected .*got ceil_mode = 1"):
        FaceRecogniser.load(path, CPU)(torch.zeros(1, 3, 112, 112))


def test_weights_beside_the_model_are_refused(tmp_path: Path) -> None:
    import onnx

    model = onnx.load(iresnet(tmp_path / "one.onnx"))
    onnx.save(model, tmp_path / "two.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    refused(tmp_path / "two.onnx", "weights elsewhere")
    g = Graph()
    value = numpy_helper.from_array(np.float32([[0.5]]))
    g.op("Add", two_dimensional(g, "input.1"), g.op("Constant", value=value))
    out = g.nodes[-1].output[0]
    model = onnx.load(g.save(tmp_path / "three.onnx", out, ["batch", "width"]))
    constant = next(node for node in model.graph.node if node.op_type == "Constant").attribute[0].t
    constant.data_location = onnx.TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="../../secret")
    (tmp_path / "three.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "three.onnx", "weights elsewhere")


def test_a_pack_has_one_recogniser(tmp_path: Path) -> None:
    g = Graph()
    g.save(tmp_path / "age.onnx", two_dimensional(g, "input.1"), ["batch", 3], side_px=96)
    with pytest.raises(UserError, match="got none in"):
        find_recogniser(tmp_path)
    path = colour_reader(tmp_path / "rec.onnx")
    assert find_recogniser(tmp_path) == find_recogniser(path) == path
    colour_reader(tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"other\.onnx and rec\.onnx.*Name the file"):
        find_recogniser(tmp_path)


def test_half_precision_is_computed_in_single(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    path = iresnet(tmp_path / "model.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    onnx.save(model, tmp_path / "half.onnx")
    given = torch.from_numpy(faces())
    half, single = (FaceRecogniser.load(tmp_path / name, CPU)(given) for name in ("half.onnx", "model.onnx"))
    assert half.dtype == torch.float32 and torch.allclose(half, single, atol=1e-2)
    assert all(v.dtype == np.float16 for v in read_graph(tmp_path / "half.onnx").constants.values())


def turned(angle: float, scale: float) -> NDArray[np.float64]:
    """A similarity's matrix."""
    return scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@pytest.mark.parametrize("angle", [0.0, 0.4, -2.0, 3.1])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_alignment_undoes_a_similarity(angle: float, scale: float) -> None:
    points = TEMPLATE_52 @ turned(angle, scale).T + [31.0, -12.0]
    expected = np.column_stack([turned(angle, scale), [31.0, -12.0]])
    assert np.allclose(alignment_of(points), expected, atol=1e-9)


def test_alignment_is_the_nearest_one_and_never_mirrors() -> None:
    """Against a search: no turned, scaled or moved template lies nearer; of mirrored points, too."""
    generator = np.random.default_rng(3)
    for points in (TEMPLATE_52 + generator.normal(size=(5, 2)) * 8, (TEMPLATE_52 * [-1, 1]) + [112, 0]):
        matrix = alignment_of(points)
        assert np.linalg.det(matrix[:, :2]) > 0
        inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]

        def distance(m: NDArray[np.float64], points: NDArray[np.float64] = points) -> float:
            return float(((points @ m[:, :2].T + m[:, 2] - TEMPLATE_52) ** 2).sum())

        best = distance(inverse)
        for _ in range(300):
            other = inverse.copy()
            other[:, :2] = inverse[:, :2] @ turned(generator.normal() * 0.1, math.exp(generator.normal() * 0.1))
            other[:, 2] += generator.normal(size=2)
            assert distance(other) >= best


@pytest.mark.parametrize("scale", [0.2, 0.7, 1.0])
def test_a_face_no_larger_than_the_template_is_warped_as_by_opencv(scale: float) -> None:
    """Bilinear, black beside the picture; scipy's is an independent one of the same."""
    picture = np.random.default_rng(2).uniform(-1, 1, (3, 70, 60))
    matrix = np.column_stack([turned(0.3, scale), [10.0, -4.0]])
    ours = aligned(torch.from_numpy(picture), torch.from_numpy(matrix)).numpy()
    swapped = matrix[::-1][:, [1, 0, 2]]  # scipy counts rows first
    for channel in range(3):
        padded = np.pad(picture[channel], 1, constant_values=-1)  # scipy does not blend over the edge
        offset = swapped[:, 2] + 1
        expected = ndimage.affine_transform(padded, swapped[:, :2], offset, (112, 112), order=1, cval=-1)
        assert np.allclose(ours[channel], expected, atol=1e-9)


def test_a_large_face_is_averaged_and_all_of_it_gets_gradients() -> None:
    picture = torch.rand(3, 450, 450, dtype=torch.float64, requires_grad=True)
    matrix = torch.tensor([[4.0, 0, 1.5], [0, 4.0, 1.5]], dtype=torch.float64)  # four pixels square each
    crop = aligned(picture, matrix)
    expected = picture[:, :448, :448].reshape(3, 112, 4, 112, 4).mean((2, 4))
    assert torch.allclose(crop, expected)
    crop.sum().backward()
    assert picture.grad is not None and bool((picture.grad[:, :448, :448] > 0).all())


def test_a_giant_face_takes_no_more_memory_than_a_large_one() -> None:
    picture = torch.zeros(3, 64, 64)
    assert MOST_SAMPLES == 16
    assert aligned(picture, torch.tensor([[500.0, 0, 0], [0, 500.0, 0]])).shape == (3, 112, 112)
