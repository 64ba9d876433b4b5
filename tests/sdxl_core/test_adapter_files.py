"""What an adapter exports is what was trained, for whoever loads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sdxl_core.adapters import ADAPTERS, TRAINED_FILE, Addition, load_trained
from sdxl_core.adapters.peft_folder import FromFolder
from sdxl_core.errors import UserError
from sdxl_core.export import DIFFUSERS_FILE, KOHYA_FILE
from sdxl_core.peft_layers import layer_names
from sdxl_core.weight_files.original_names import UnetLayout, kohya_name
from tests.sdxl_core.adapter_cases import CASES, attached, flat, networks, output, train_for_a_moment
from tests.tiers import first_of

EVERYTHING = {"kind": "lora", "rank": 2, "alpha": 3, "targets": "regex: .*", "conv_rank": 3}
LORAS = [case for case in CASES if CASES[case]["kind"] == "lora"]
IN_FOLDERS = [case for case in CASES if issubclass(ADAPTERS[CASES[case]["kind"]], FromFolder)]
Outputs = dict[str, Tensor]


@pytest.fixture(scope="module")
def exported(random_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Outputs]]:
    """Of a case: the folder that a training of all three networks leaves, and what they say themselves."""
    done: dict[str, tuple[Path, Outputs]] = {}

    def export(case: str) -> tuple[Path, Outputs]:
        if case not in done:
            adapter, found = attached(case, random_sdxl)
            for module in found.values():
                train_for_a_moment(module, far=0.05)
            out = tmp_path_factory.mktemp(case)
            adapter.export(found, out, {"base": "digest"})
            training = {"adapter": {"kind": CASES[case]["kind"]}}
            (out / TRAINED_FILE).write_text(json.dumps({"training": training}))
            done[case] = out, {part: output(part, module.eval()) for part, module in found.items()}
        return done[case]

    return export


def assert_says(found: Mapping[str, nn.Module], expected: Outputs) -> None:
    for part, module in found.items():
        own = output(part, module.eval())
        torch.testing.assert_close(own, expected[part], rtol=1e-3, atol=1e-3 * float(expected[part].abs().max()))


def parts_of(pipeline: StableDiffusionXLPipeline) -> dict[str, nn.Module]:
    return {part: getattr(pipeline, part) for part in ("unet", "text_encoder", "text_encoder_2")}


Exported = Callable[[str], tuple[Path, Outputs]]


@pytest.mark.parametrize("case", first_of(CASES, 2))
def test_the_images_stage_draws_with_what_was_trained(random_sdxl: Path, exported: Exported, case: str) -> None:
    out, expected = exported(case)
    pipeline = StableDiffusionXLPipeline.from_pretrained(random_sdxl)
    load_trained(pipeline, Addition(out))
    assert_says(parts_of(pipeline), expected)


@pytest.mark.parametrize("file", [DIFFUSERS_FILE, KOHYA_FILE])
@pytest.mark.parametrize("case", first_of([case for case in LORAS if case != "dora"], 2))
def test_plain_diffusers_loads_both_files(random_sdxl: Path, exported: Exported, case: str, file: str) -> None:
    out, expected = exported(case)
    pipeline = StableDiffusionXLPipeline.from_pretrained(random_sdxl)
    pipeline.load_lora_weights(out, weight_name=file)
    assert_says(parts_of(pipeline), expected)


@pytest.mark.ci
def test_plain_diffusers_loads_a_dora_in_its_own_layout_alone(random_sdxl: Path, exported: Exported) -> None:
    """In kohya's it would leave out the magnitudes; so it gets that file rewritten."""
    out, expected = exported("dora")
    plain, ours = (StableDiffusionXLPipeline.from_pretrained(random_sdxl) for _ in range(2))
    plain.load_lora_weights(out, weight_name=DIFFUSERS_FILE)
    load_trained(ours, Addition(out / KOHYA_FILE))
    for pipeline in (plain, ours):
        assert_says(parts_of(pipeline), expected)


@torch.no_grad()
@pytest.mark.parametrize("case", first_of(CASES, 2))
def test_a_pipeline_in_half_precision_draws_nearly_the_same(random_sdxl: Path, exported: Exported, case: str) -> None:
    out, expected = exported(case)
    pipeline = StableDiffusionXLPipeline.from_pretrained(random_sdxl, dtype=torch.bfloat16)
    load_trained(pipeline, Addition(out))
    says = output("text_encoder", pipeline.text_encoder.eval()).float()
    assert (says - expected["text_encoder"]).std() < 0.1 * expected["text_encoder"].std()


@pytest.mark.ci
@pytest.mark.parametrize("case", IN_FOLDERS)
def test_peft_alone_loads_its_folders(random_sdxl: Path, exported: Exported, case: str) -> None:
    out, expected = exported(case)
    found = {
        part: PeftModel.from_pretrained(module, out / "peft" / part).base_model.model
        for part, module in networks(random_sdxl).items()
    }
    assert_says(found, expected)


def kohya_weight(base: Tensor, t: Mapping[str, Tensor]) -> Tensor:
    """The weight that a file in kohya's layout means, as LyCORIS defines it."""
    if "lora_down.weight" in t:
        rank = len(t["lora_down.weight"])
        grown = base + (t["alpha"] / rank * flat(t["lora_up.weight"]) @ flat(t["lora_down.weight"])).reshape(base.shape)
        if "dora_scale" not in t:
            return grown
        return t["dora_scale"] * grown / flat(grown).norm(dim=1).reshape(-1, *[1] * (base.dim() - 1))
    if "hada_w1_a" in t:
        product = (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
        return base + (t["alpha"] / t["hada_w1_b"].shape[0] * product).reshape(base.shape)
    ranks = [t[name].shape[0] for name in ("lokr_w1_b", "lokr_w2_b") if name in t]
    scale = t["alpha"] / ranks[0] if ranks else 1.0  # of two whole matrices, alpha says nothing
    w1 = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    w2 = flat(t["lokr_w2"]) if "lokr_w2" in t else t["lokr_w2_a"] @ t["lokr_w2_b"]
    return base + (scale * torch.kron(w1, w2)).reshape(base.shape)


@torch.no_grad()
@pytest.mark.parametrize("case", [case for case in CASES if case != "oft"])
def test_kohyas_file_means_what_was_trained(random_sdxl: Path, exported: Exported, case: str) -> None:
    out, expected = exported(case)
    tensors = load_file(out / KOHYA_FILE)
    stems: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        stem, key = name.split(".", 1)
        stems.setdefault(stem, {})[key] = tensor
    found = networks(random_sdxl)
    config = found["unet"].config
    for part, module in found.items():
        for name, stored in layer_names(part, module):
            own = stems.pop(kohya_name(part, stored, UnetLayout.of(dict(config))), None)  # type: ignore[union-attr]
            if own is not None:
                weight = module.get_submodule(name).weight
                weight.copy_(kohya_weight(weight, own))  # type: ignore[operator, arg-type]
    assert not stems
    assert_says(found, expected)


def test_a_turned_input_has_no_file_of_kohyas(exported: Exported) -> None:
    out, _ = exported("oft")
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.safetensors")) == [
        f"peft/{part}/adapter_model.safetensors" for part in ("text_encoder", "text_encoder_2", "unet")
    ]


@pytest.mark.ci
def test_every_layer_has_a_name_elsewhere(random_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All linear layers and convolutions, also those outside the blocks, arrive in diffusers from both files."""
    monkeypatch.setitem(CASES, "everything", EVERYTHING)
    adapter, found = attached("everything", random_sdxl)
    for module in found.values():
        train_for_a_moment(module, far=0.02)
    adapter.export(found, tmp_path, {})
    expected = {part: output(part, module) for part, module in found.items()}
    for file in (DIFFUSERS_FILE, KOHYA_FILE):
        pipeline = StableDiffusionXLPipeline.from_pretrained(random_sdxl)
        pipeline.load_lora_weights(tmp_path, weight_name=file)
        assert_says(parts_of(pipeline), expected)


@pytest.mark.parametrize("case", IN_FOLDERS)
def test_other_kinds_are_not_taken_for_a_lora(random_sdxl: Path, exported: Exported, case: str) -> None:
    out, _ = exported(case)
    pipeline = StableDiffusionXLPipeline.from_pretrained(random_sdxl)
    for file in out.rglob("*.safetensors"):
        with pytest.raises(UserError, match="of another kind of adapter"):
            load_trained(pipeline, Addition(file))


@pytest.mark.parametrize("case", CASES)
def test_headers_tell_where_it_comes_from(exported: Exported, case: str) -> None:
    out, _ = exported(case)
    for path in out.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata()["base"] == "digest"


@pytest.mark.parametrize("case", ["lora-conv-blocks", "dora", "lokr"])
def test_bytes_are_a_function_of_the_weights(random_sdxl: Path, exported: Exported, case: str, tmp_path: Path) -> None:
    adapter, found = attached(case, random_sdxl)
    for module in found.values():
        train_for_a_moment(module, far=0.05)
    adapter.export(found, tmp_path, {"base": "digest"})
    for path in tmp_path.rglob("*.*"):
        assert path.read_bytes() == (exported(case)[0] / path.relative_to(tmp_path)).read_bytes()
