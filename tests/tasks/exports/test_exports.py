"""What becomes of finished runs: exported, merged, extracted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

from sdxl_core.adapters import TRAINED_FILE
from sdxl_core.config import ModelConfig
from sdxl_core.errors import UserError
from sdxl_core.weight_files.architecture import Architecture
from sdxl_core.weight_files.lora_files import read_lora
from sdxl_core.weight_files.streamed import read_metadata
from tasks.exports import Wanted, export
from tasks.finished import said_of
from tasks.push import KOHYA_FILE
from tasks.store import ArtifactStore
from tasks.weight_tools import Ranks, Writing, extract, merge_into_base, merge_loras, resize, retained_rows
from tasks.weighted_files import weighted_files
from tests.tasks.exports.conftest import MINIATURE

MODEL = ModelConfig(base=str(MINIATURE / "sdxl"))


@pytest.fixture(scope="module")
def miniature() -> Architecture:
    return Architecture.of(MINIATURE / "sdxl")


def trained(store: ArtifactStore, name: str) -> Path:
    kind = {"short": "lora", "full": "full"}[name]
    found = (store.path(m.ref) for m in store.manifests("train"))
    return next(
        path for path in found if json.loads((path / TRAINED_FILE).read_text())["training"]["adapter"]["kind"] == kind
    )


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize("by", ["run", "artifact", "file"])
def test_a_lora_is_exported_with_a_full_header(
    store: ArtifactStore, miniature: Architecture, tmp_path: Path, form: Any, by: str
) -> None:
    source = trained(store, "short")
    what = {"run": "short", "artifact": f"train/{source.name[:9]}", "file": str(source / KOHYA_FILE)}[by]
    wanted = Wanted(form, base=MODEL if by == "file" else None, said=("export.title=Ü",))
    export(store, what, wanted, tmp_path / "a.safetensors")
    export(store, what, wanted, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    ours, theirs = (read_lora(f, miniature) for f in (tmp_path / "a.safetensors", source / KOHYA_FILE))
    for part, name, module in ours:
        assert torch.equal(module.delta(), theirs.modules[part][name].delta())
    header = read_metadata(tmp_path / "a.safetensors")
    assert header["modelspec.title"] == "Ü" and header["modelspec.prediction_type"] == "epsilon"
    assert header.get("modelspec.license") == (None if by == "file" else "My Own")
    facts = json.loads((source / TRAINED_FILE).read_text())
    assert facts["inputs"].items() <= header.items()
    if by != "file":
        assert header["sdxl_flows.artifact"] == f"train/{source.name}"


def test_a_full_fine_tune_is_exported_with_its_base(store: ArtifactStore, tmp_path: Path) -> None:
    export(store, "full", Wanted("diffusers"), tmp_path / "folder")
    export(store, "full", Wanted("single-file", "bf16"), tmp_path / "one.safetensors")
    whole = StableDiffusionXLPipeline.from_pretrained(tmp_path / "folder", add_watermarker=False, local_files_only=True)
    expected = load_file(trained(store, "full") / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in whole.unet.state_dict().items())
    single = load_file(tmp_path / "one.safetensors")
    assert torch.equal(single["model.diffusion_model.out.2.weight"], expected["conv_out.weight"].bfloat16())
    assert read_metadata(tmp_path / "one.safetensors")["modelspec.resolution"] == "64x64"


REFUSED: dict[str, tuple[str, Wanted, str, str]] = {
    "kohya of a model": ("full", Wanted("kohya"), "x.safetensors", "extract"),
    "model of a lora": ("short", Wanted("single-file"), "x.safetensors", "merge --base"),
    "name": ("shrt", Wanted("kohya"), "x.safetensors", "Did you mean 'short'"),
    "kind": ("report/", Wanted("kohya"), "x.safetensors", "expected"),
    "suffix": ("short", Wanted("kohya"), "x.bin", "ending in .safetensors"),
    "folder for a file": ("full", Wanted("single-file"), "x", "a file ending in .safetensors"),
    "file for a folder": ("full", Wanted("diffusers"), "x.safetensors", "a folder"),
    "setting": ("short", Wanted("kohya", said=("export.licence=mit",)), "x.safetensors", "Did you mean 'license'"),
    "elsewhere": ("short", Wanted("kohya", said=("training.seed=3",)), "x.safetensors", "unknown key"),
    "no file": ("nowhere.safetensors", Wanted("kohya"), "x.safetensors", "an existing LoRA file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused(store: ArtifactStore, tmp_path: Path, case: str) -> None:
    what, wanted, out, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        export(store, what, wanted, tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_another_base_is_no_base(store: ArtifactStore, tmp_path: Path) -> None:
    other = tmp_path / "other"
    export(store, "full", Wanted("diffusers"), other)
    with pytest.raises(UserError, match=r"--base: expected the base model that full was trained from"):
        export(store, "full", Wanted("diffusers", base=ModelConfig(base=str(other))), tmp_path / "x")


def test_merged_and_extracted_again(store: ArtifactStore, miniature: Architecture, tmp_path: Path) -> None:
    """The LoRA into its base, which then draws what the base with the LoRA draws; and out of it again."""
    lora = trained(store, "short") / KOHYA_FILE
    base = tmp_path / "base"
    merge_into_base(MODEL, [], Writing(base, dtype="fp32"))
    merge_into_base(ModelConfig(base=str(base)), weighted_files([f"{lora}:0.5"]), Writing(tmp_path / "merged"))
    header = read_metadata(tmp_path / "merged" / "unet" / "diffusion_pytorch_model.safetensors")
    assert header["modelspec.merged_from"] == "base, kohya_lora x 0.5"
    assert str(tmp_path) not in json.dumps(header)
    out = tmp_path / "found.safetensors"
    models = ModelConfig(base=str(base)), ModelConfig(base=str(tmp_path / "merged"))
    rows = retained_rows(extract(*models, Ranks(3), "cpu", Writing(out, "diffusers")))
    assert rows[-1] == ("all", "100.00 %")
    found, given = read_lora(out, miniature), read_lora(lora, miniature)
    for part, name, module in given:
        torch.testing.assert_close(found.modules[part][name].delta(), 0.5 * module.delta(), rtol=1e-3, atol=1e-5)


def test_loras_become_one_and_smaller(store: ArtifactStore, miniature: Architecture, tmp_path: Path) -> None:
    source = trained(store, "short")
    files = weighted_files([f"{source / KOHYA_FILE}:0.75", f"{source / 'pytorch_lora_weights.safetensors'}:-0.25"])
    assert merge_loras(files, None, MODEL, Writing(tmp_path / "sum.safetensors")) == []
    both, one = (read_lora(f, miniature) for f in (tmp_path / "sum.safetensors", source / KOHYA_FILE))
    for part, name, module in both:
        assert module.rank == 6
        torch.testing.assert_close(module.delta(), 0.5 * one.modules[part][name].delta(), rtol=1e-4, atol=1e-6)
    rows = retained_rows(merge_loras(files, 3, MODEL, Writing(tmp_path / "three.safetensors")))
    assert rows[-1] == ("all", "100.00 %")  # of rank 3 they were
    retained = resize(
        tmp_path / "sum.safetensors", None, 0.8, MODEL, Writing(tmp_path / "small.safetensors", dtype="fp16")
    )
    assert all(part.share >= 0.8 for _, part in retained)
    assert read_metadata(tmp_path / "small.safetensors")["ss_network_dim"] in ("2", "Dynamic")


def test_what_an_author_says_is_checked(tmp_path: Path) -> None:
    said = said_of({"export": {"author": "me"}}, ["export.date=2026-11-21", "export.license=openrail++"])
    assert (said.author, said.date, said.license) == ("me", "2026-11-21", "openrail++")
    for wrong in ("date=yesterday", "licence=x", "tags=['a,b']", "title=''", 'author="a\\nb"'):
        with pytest.raises(UserError, match="--set: export"):
            said_of({}, [f"export.{wrong}"])


@pytest.mark.parametrize("given", ["nowhere.safetensors", "x.safetensors:heavy", "x.safetensors:nan", "x.bin"])
def test_lora_arguments_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(UserError, match=r"FILE.safetensors:WEIGHT"):
        weighted_files([given])
