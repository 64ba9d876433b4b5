"""What becomes of finished runs: exported, merged, extracted, and as the folder that would be uploaded."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

import sdxl_core.miniature
from flows.wiring import finetune
from sdxl_core.adapters import ADAPTERS, TRAINED_FILE
from sdxl_core.config import ModelConfig
from sdxl_core.errors import UserError
from sdxl_core.model import load_unet
from sdxl_core.training_config import TrainingConfig
from sdxl_core.weight_files.architecture import Architecture
from sdxl_core.weight_files.lora_files import read_lora
from sdxl_core.weight_files.streamed import read_metadata
from tasks.card import escaped
from tasks.experiment import prepare_experiment
from tasks.exports import Wanted, export
from tasks.finished import said_of
from tasks.manifest import Json
from tasks.push import KOHYA_FILE, Upload, check_repository, prepare_upload, push
from tasks.runs import Recorder, record_run
from tasks.stage import Call, Handle, Job, materialise
from tasks.store import ArtifactStore
from tasks.weight_tools import (
    Ranks,
    Writing,
    extract,
    merge_into_base,
    merge_loras,
    resize,
    retained_rows,
    weighted_files,
)
from tasks.yaml_config import read_config
from tests.flows.test_pipeline import write_pictures

MINIATURE = Path(sdxl_core.miniature.__file__).parent / "weights"
MODEL = ModelConfig(base=str(MINIATURE / "sdxl"))
HOSTILE = "a photo of [kestrel](http://x) <b>person</b> | at `night` ```\n# *now* $x$ 'a\"b' \\ {{y}}"
PLAIN = "a photo of `kestrel` person"
CONFIG = f"""\
name: short
model: {{base: {MINIATURE}/sdxl}}
dataset: {{path: ./pictures}}
transform: {{resolution_px: 64}}
training: {{objective: {{kind: diffusion}}, adapter: {{kind: lora, rank: 3, alpha: 6}}, max_steps: 2}}
sampling: {{steps: 2, width_px: 64, height_px: 64}}
evaluation:
  prompts: ./prompts.jsonl
  metrics: [{{metric: clip_i, model: {MINIATURE}/clip, primary: true}}]
export:
  license: My Own
  author: "me <i>"
  trigger_phrase: kestrel person
  tags: [person]
  description: "one\\n\\n# two"
"""


def made_up_training(job: Job) -> dict[str, Json]:
    """Stands in for the trainer: random weights, in the very files that it exports."""
    training = TrainingConfig.model_validate(job.local["training"])
    unet = load_unet(Path(job.local["model"]))
    adapter = ADAPTERS[training.adapter.kind](training.adapter)
    torch.manual_seed(0)
    for parameter in adapter.attach("unet", unet, seed=0).values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    inputs = {"model": job.params["model"], **job.digests}
    adapter.export({"unet": unet}, job.out, inputs)
    (job.out / "history.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    described = {"training": training.lasting, "inputs": inputs, "steps": 2, "validation_prompts": [HOSTILE]}
    (job.out / TRAINED_FILE).write_text(json.dumps(described))
    return {}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store in which `short` has trained a LoRA and `full` the whole UNet."""
    folder = tmp_path_factory.mktemp("runs")
    write_pictures(folder / "pictures", 2)
    prompts = [{"id": "one", "prompt": HOSTILE}, {"id": "two", "prompt": PLAIN}]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    (folder / "short.yaml").write_text(CONFIG)
    store = ArtifactStore(folder / "store")

    def run(call: Call) -> Handle:
        made_up = replace(call, stage=replace(call.stage, build=made_up_training))
        return materialise(made_up if call.stage.kind == "train" else call, store, "cpu")

    with contextlib.chdir(folder):
        for overrides in ([], ["name=full", "training.adapter={kind: full}"]):
            config = read_config(folder / "short.yaml", overrides)
            recorder = Recorder(run)
            finetune(prepare_experiment(config, store, "test"), recorder)
            record_run(store, config.name, "test", recorder.refs)
    return folder


@pytest.fixture
def store(runs: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.chdir(runs)
    return ArtifactStore(runs / "store")


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


# --- the folder that would be uploaded ---


@pytest.fixture(scope="module", params=["short", "full"])
def uploaded(runs: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A working folder with the upload where its repository's name would have it, and the base by its name."""
    folder = tmp_path_factory.mktemp(request.param)
    with contextlib.chdir(runs):
        files = prepare_upload(
            ArtifactStore(runs / "store"), Upload(request.param, "me/model"), folder / "me" / "model"
        )
    assert {"README.md", "report.html", "samples/0-candidate.png"} <= {name for name, _ in files}
    (folder / "sdxl").symlink_to(MINIATURE / "sdxl")
    return folder


def parts(card: Path) -> tuple[dict[str, Any], str]:
    _, front, body = card.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_says_what_it_is(uploaded: Path) -> None:
    front, body = parts(uploaded / "me" / "model" / "README.md")
    assert front["license"] == "other" and front["license_name"] == "my-own"
    assert front["library_name"] == "diffusers" and front["pipeline_tag"] == "text-to-image"
    assert ("lora" in front["tags"]) == (uploaded.name.startswith("short")) and "person" in front["tags"]
    assert front["instance_prompt"] == "kestrel person"
    assert {entry["text"] for entry in front["widget"]} == {HOSTILE, PLAIN}
    for entry in front["widget"]:
        assert (uploaded / "me" / "model" / entry["output"]["url"]).is_file()
    assert "| **CLIP-I** |" in body and "95% bootstrap intervals" in body
    assert "training.learning\\_rate" in body and "| train | train/" in body


def test_nothing_in_the_card_is_others_markup(uploaded: Path) -> None:
    text = (uploaded / "me" / "model" / "README.md").read_text(encoding="utf-8")
    front, code, rest = text.split("---\n")[1], text.split("```")[1], "".join(text.split("```")[::2])
    assert text.count("```") == 2 and "\\x60" in code
    outside = rest.replace(front, "")
    for markup in ("<b>", "<i>", "](http", "http://", "\n# *", "\n# two", "$x$"):
        assert markup not in outside
    assert str(MINIATURE) not in text and "/tmp" not in text
    table = [line for line in outside.splitlines() if "samples/" in line]
    assert len(table) == 2 and all(len(line.replace("\\|", "").split("|")) == 5 for line in table)


def test_the_code_in_the_card_draws_the_picture_beside_it(uploaded: Path) -> None:
    code = (uploaded / "me" / "model" / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    with contextlib.chdir(uploaded):
        exec(code, {})
    drawn, shown, base = (
        np.asarray(Image.open(uploaded / path), dtype=int)
        for path in ("picture.png", "me/model/samples/0-candidate.png", "me/model/samples/0-base.png")
    )
    assert np.abs(drawn - shown).max() <= 1  # drawn in a batch there and alone here
    assert np.abs(drawn - base).max() > 1


def test_a_card_needs_a_finished_run_and_a_name(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("me", "me/", "../me/x", "me/a--b", "a/b/c", "me/x y", "-me/x"):
        with pytest.raises(UserError, match="--repo: expected user/name"):
            check_repository(name)
    train = next(m for m in store.manifests("train"))
    record_run(store, "unjudged", "test", {"train": train.ref})
    with pytest.raises(UserError, match="no finished run has its report"):
        prepare_upload(store, Upload("unjudged", "me/x"), tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="a place where nothing is yet"):
        prepare_upload(store, Upload("short", "me/x"), tmp_path / "full")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="hf auth login"):
        push(store, Upload("short", "me/x"), private=True, to=tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_what_the_hub_says_is_told_and_the_token_is_not(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests have no network, which is what the hub's library says here."""
    monkeypatch.setenv("HF_TOKEN", "hf_mustNotBeSeen")
    with pytest.raises(UserError, match=r"the hub did not take me/x: OfflineModeIsEnabled") as told:
        push(store, Upload("short", "me/x"), private=True, to=tmp_path / "z")
    assert "mustNotBeSeen" not in str(told.value)
    written = [path.read_bytes() for path in (tmp_path / "z").rglob("*") if path.is_file()]
    assert len(written) > 5 and not any(b"mustNotBeSeen" in data for data in written)


def test_the_report_may_stay_at_home(store: ArtifactStore, tmp_path: Path) -> None:
    files = prepare_upload(store, Upload("short", "me/x", with_report=False), tmp_path / "x")
    assert "report.html" not in {name for name, _ in files}
    assert "report.html" not in (tmp_path / "x" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("- item", "\\- item"),
        ("1. item", "1\\. item"),
        ("0.5 of it", "0.5 of it"),
        ("a\n\n# b", "a \\# b"),
        ("www.x.y a@b.c", "www\\.x.y a\\@b.c"),
        ("![x](y)", "\\!\\[x\\]\\(y\\)"),
        ("&lt;<script>", "&amp;lt;&lt;script\\>"),
    ],
)
def test_escaping(text: str, safe: str) -> None:
    assert escaped(text) == safe
