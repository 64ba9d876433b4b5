"""Files written tensor by tensor are those of the safetensors library, and their hashes those of other programs."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from sdxl_core.export_config import ExportConfig
from sdxl_core.tensor_files import pack
from sdxl_core.weight_files.metadata import HASHES, Described, header, lineage_of
from sdxl_core.weight_files.streamed import LazyTensor, open_tensors, read_metadata, write_streamed


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    floats = {f"{dtype}": torch.randn(3, 5).to(dtype) for dtype in (torch.float64, torch.float32, torch.float16)}
    others: dict[str, Tensor] = {
        "ä b": torch.randn(2, 2).bfloat16(),
        "whole": torch.arange(7),
        "small": torch.arange(5, dtype=torch.uint8),
        "true": torch.tensor([True, False]),
        "one": torch.tensor(1.5),
        "none": torch.zeros(0),
        "turned": torch.randn(4, 3).T,
    }
    return floats | others


def written(path: Path, of: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    write_streamed(path, {name: LazyTensor.of(tensor) for name, tensor in of.items()}, metadata)
    return path.read_bytes()


@pytest.mark.parametrize("metadata", [{}, {"b": "2", "a": 'ü"\n'}])
def test_bytes_are_those_of_the_library(tmp_path: Path, metadata: dict[str, str]) -> None:
    assert written(tmp_path / "x", tensors(), metadata) == pack(tensors(), metadata or None)
    read = open_tensors(tmp_path / "x")
    assert all(torch.equal(read[name].load(), tensor) for name, tensor in tensors().items())
    assert read_metadata(tmp_path / "x") == metadata


def sd_scripts_hashes(of: dict[str, Tensor], metadata: dict[str, str]) -> tuple[str, str]:
    """kohya's train_util.precalculate_safetensors_hashes, by the library's own bytes."""
    data = BytesIO(safetensors.torch.save(of, {k: v for k, v in metadata.items() if k.startswith("ss_")}))
    size = int.from_bytes(data.read(8), "little")
    data.seek(8 + size)
    model = hashlib.sha256(data.read()).hexdigest()
    data.seek(0x100000)
    return model, hashlib.sha256(data.read(0x10000)).hexdigest()[:8]


@pytest.mark.parametrize("kilobytes", [1, 900, 1100, 2000])
def test_hashes_are_those_that_other_programs_compute(tmp_path: Path, kilobytes: int) -> None:
    of = {"b": torch.arange(kilobytes * 128), "a": torch.randn(50)}
    said = {"ss_network_dim": "4", "modelspec.title": "title", **HASHES}
    data = written(tmp_path / "x", of, said)
    metadata = read_metadata(tmp_path / "x")
    model, legacy = sd_scripts_hashes(of, said)
    assert (metadata["sshs_model_hash"], metadata["sshs_legacy_hash"]) == (model, legacy)
    content = data[8 + int.from_bytes(data[:8], "little") :]
    assert metadata["modelspec.hash_sha256"] == f"0x{hashlib.sha256(content).hexdigest()}"


def test_lineage_survives_and_formats_do_not() -> None:
    source = {"model": "d1", "latents": "d2", "format": "pt", "ss_network_dim": "4", "modelspec.title": "old"}
    described = Described("new", is_lora=True, lineage=source, merged_from=("a", "b"), prediction_type="v_prediction")
    found = header(described, ExportConfig(), "kohya")
    assert lineage_of(found) == {"model": "d1", "latents": "d2"}
    assert found["modelspec.title"] == "new" and "ss_network_dim" not in found and "format" not in found
    assert (found["modelspec.merged_from"], found["modelspec.prediction_type"]) == ("a, b", "v")


def test_bytes_are_a_function_of_the_contents(tmp_path: Path) -> None:
    described = Described("x", is_lora=True, resolution_px=(64, 32))
    once, again = (
        written(tmp_path / name, tensors(), header(described, ExportConfig(author="é"), "kohya")) for name in "ab"
    )
    assert once == again
    assert read_metadata(tmp_path / "a")["modelspec.resolution"] == "64x32"
