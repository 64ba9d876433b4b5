"""An adapter begins with an earlier one: the same adapter goes on, or the differences are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdxl_core.adapters import ADAPTERS
from sdxl_core.adapters.peft_folder import FromFolder
from sdxl_core.errors import UserError
from sdxl_core.exit_codes import EXIT_USER_ERROR
from sdxl_core.export import DIFFUSERS_FILE, KOHYA_FILE
from sdxl_core.train import main
from tests.sdxl_core.adapter_cases import CASES, attached, layers, output, train_for_a_moment
from tests.sdxl_core.jobs import Jobs, files, run, write_job
from tests.tiers import first_of

STARTABLE = [case for case in CASES if case not in ("pissa", "olora", "lora-kaiming")]  # whose init is the file's


@pytest.fixture(scope="module")
def left(random_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a case: the export of an adapter on all networks, and what these say with it."""
    done: dict[str, Any] = {}

    def leave(case: str) -> tuple[Path, dict[str, torch.Tensor]]:
        if case not in done:
            adapter, found = attached(case, random_sdxl)
            for module in found.values():
                train_for_a_moment(module, far=0.05)
            out = tmp_path_factory.mktemp(case)
            adapter.export(found, out, {})
            done[case] = out, {part: output(part, module) for part, module in found.items()}
        return done[case]  # type: ignore[no-any-return]

    return leave


def assert_goes_on(case: str, start: Path, model: Path, expected: dict[str, torch.Tensor], **changed: Any) -> None:
    _, found = attached(case, model, start_from=str(start), **changed)
    for part, module in found.items():
        says = output(part, module)
        torch.testing.assert_close(says, expected[part], rtol=1e-3, atol=1e-3 * float(expected[part].abs().max()))
        assert all([*layer.r] == ["default"] for layer in layers(module).values())  # never a second adapter


@pytest.mark.parametrize("case", first_of(STARTABLE, 2))
def test_it_goes_on_from_a_folder(random_sdxl: Path, left: Any, case: str) -> None:
    out, expected = left(case)
    assert_goes_on(case, out, random_sdxl, expected)


@pytest.mark.parametrize("case", [case for case in STARTABLE if CASES[case]["kind"] == "lora"])
def test_it_goes_on_from_kohyas_file(random_sdxl: Path, left: Any, case: str) -> None:
    out, expected = left(case)
    assert_goes_on(case, out / KOHYA_FILE, random_sdxl, expected)


def test_what_began_with_the_base_goes_on_as_a_lora_of_twice_the_rank(random_sdxl: Path, left: Any) -> None:
    out, expected = left("olora")
    assert_goes_on("olora", out, random_sdxl, expected, init="gaussian", rank=8, alpha=4)


def test_other_scales_and_older_names_mean_the_same(random_sdxl: Path, left: Any, tmp_path: Path) -> None:
    """Files without metadata have a scale of 1, and used to say `lora.down` and `lora_linear_layer.down`."""
    out, expected = left("lora")
    old = {}
    for name, tensor in load_file(out / DIFFUSERS_FILE).items():
        middle = "lora" if name.startswith("unet.") else "lora_linear_layer"
        name = name.replace("lora_A", f"{middle}.down").replace("lora_B", f"{middle}.up")
        old[name] = tensor * 4 if name.endswith("up.weight") else tensor  # alpha / rank was 4
    save_file(old, tmp_path / "old.safetensors")
    assert_goes_on("lora", tmp_path / "old.safetensors", random_sdxl, expected)
    assert_goes_on("lora", out, random_sdxl, expected, alpha=3)


def test_a_header_that_is_no_json_is_the_files_fault(random_sdxl: Path, left: Any, tmp_path: Path) -> None:
    out, _ = left("lora")
    save_file(load_file(out / DIFFUSERS_FILE), tmp_path / "a.safetensors", {"lora_adapter_metadata": "{r: 3"})
    with pytest.raises(UserError, match=r"a\.safetensors: lora_adapter_metadata: expected a JSON object"):
        attached("lora", random_sdxl, start_from=str(tmp_path / "a.safetensors"))


UNET_ALONE = {"kind": "lora", "rank": 2}
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"rank": 3}, "has rank 2, configured is 3"),
    "more layers": ({"targets": "attention+feed-forward"}, r"it has nothing for down_blocks.*ff\.net"),
    "fewer layers": ({"targets": "regex: .*to_q"}, "which is not adapted here"),
    "dora": ({"use_dora": True}, "is not DoRA"),
    "kind": ({"kind": "loha"}, "expected the folder of a finished training, with peft"),
    "nowhere": ({"start_from": "/nowhere"}, "expected a LoRA file ending in .safetensors"),
}


@pytest.mark.ci
@pytest.mark.parametrize("difference", REFUSALS)
def test_what_differs_is_named(jobs: Jobs, tmp_path: Path, difference: str, capsys: pytest.CaptureFixture[str]) -> None:
    changed, said = REFUSALS[difference]
    plain = {"objective": {"kind": "diffusion"}, "max_steps": 1}
    first = jobs(tmp_path / "first", **plain, adapter=UNET_ALONE)
    assert run(first)
    second = jobs(tmp_path / "second", **plain, adapter=UNET_ALONE | {"start_from": str(first.out)} | changed)
    assert main([str(write_job(second))]) == EXIT_USER_ERROR
    with pytest.raises(UserError, match=said):
        raise UserError(capsys.readouterr().err)


@pytest.mark.parametrize("case", [case for case in CASES if issubclass(ADAPTERS[CASES[case]["kind"]], FromFolder)])
def test_other_settings_of_a_folder_are_named(random_sdxl: Path, left: Any, case: str) -> None:
    out, _ = left(case)
    changed = {"block_size": 16} if CASES[case]["kind"] == "oft" else {"alpha": 7}
    with pytest.raises(UserError, match=r"training\.adapter\.start_from: .*(alpha|oft_R|oft_block_size)"):
        attached(case, random_sdxl, start_from=str(out), **changed)


@pytest.mark.ci
def test_a_run_that_began_with_another_is_resumable(jobs: Jobs, tmp_path: Path) -> None:
    """And ends otherwise than one that began anew; its description names no place."""
    plain: dict[str, Any] = {"objective": {"kind": "diffusion"}, "ema": None}
    first = jobs(tmp_path / "first", **plain, adapter=UNET_ALONE, max_steps=2)
    assert run(first)
    going_on = plain | {"adapter": UNET_ALONE | {"start_from": str(first.out / KOHYA_FILE)}}
    straight, halves = jobs(tmp_path / "straight", **going_on), jobs(tmp_path / "halves", **going_on)
    anew = jobs(tmp_path / "anew", **plain, adapter=UNET_ALONE)
    assert run(jobs(tmp_path / "halves", **going_on, max_steps=3).model_copy(update={"out": tmp_path / "three"}))
    assert all(run(job) for job in (straight, halves, anew))
    assert files(straight.out) == files(halves.out)
    assert files(straight.out)[DIFFUSERS_FILE] != files(anew.out)[DIFFUSERS_FILE]
    assert str(tmp_path) not in (straight.out / "training.json").read_text()
