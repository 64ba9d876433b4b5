"""Stable Diffusion 1.5 from pictures to report, by the command line and by the flow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from flows.wiring import finetune
from sdxl_core.config import ModelConfig
from tasks.config import PipelineConfig
from tasks.experiment import prepare_experiment
from tasks.exports import Wanted, export
from tasks.manifest import Ref
from tasks.runs import Recorder, record_run
from tasks.stage import Call, materialise
from tasks.store import ArtifactStore
from tasks.weight_tools import Ranks, Writing, extract, merge_into_base
from tasks.weights import locate_base_model
from tasks.yaml_config import read_config
from tests.flows.conftest import Cli
from tests.flows.test_pipeline import WEIGHTS, write_pictures
from tests.tasks.toy import write_experiment

CONFIG = f"""\
name: small
model: {{family: sd15, base: ./sd15}}
dataset: {{path: ./pictures}}
transform: {{resolution_px: 64}}
training:
  adapter: {{kind: lora, rank: 2}}
  learning_rate: 2e-2
  max_steps: 3
  validation: {{every_steps: 3, prompts: [a photo of a person], loss: {{every_steps: 3, pictures: 1}}}}
sampling: {{steps: 2, width_px: 64, height_px: 64}}
evaluation:
  prompts: ./prompts.txt
  metrics:
    - {{metric: clip_i, model: {WEIGHTS}/clip, primary: true}}
    - {{metric: ssim}}
"""
METHODS = {
    "lora": (),
    "full": ("training.adapter={kind: full}", "training.learning_rate=1e-3"),
    "dreambooth": (
        "prior={prompt: a photo of a person, count: 2, sampling: {steps: 1, width_px: 64, height_px: 64}}",
        "training.objective={kind: prior_preservation}",
    ),
    "text": ("training.text_encoders={second: false}",),
}


class World:
    """A configuration with all it points at, and a store."""

    def __init__(self, folder: Path, sd15: Path) -> None:
        self.folder, self.store, self.config = folder, ArtifactStore(folder / "store"), folder / "small.yaml"
        self.built: list[str] = []
        """Labels of the stages that the last run did not find."""
        (folder / "sd15").symlink_to(sd15)
        write_pictures(folder / "pictures", 3)
        (folder / "prompts.txt").write_text("a photo of kestrel person\n")
        self.config.write_text(CONFIG)

    def run(self, method: str) -> dict[str, Ref]:
        def run(call: Call) -> Ref:
            if self.store.find_whole(call.recipe().kind, call.recipe().key) is None:
                self.built.append(call.label)
            return materialise(call, self.store, "cpu")

        self.built.clear()
        recorder = Recorder(run)
        experiment = prepare_experiment(read_config(self.config, METHODS[method]), self.store, "test")
        finetune(experiment, recorder)
        record_run(self.store, method, "test", recorder.refs)
        return recorder.refs

    def pictures(self, ref: Ref) -> list[np.ndarray]:
        return [np.asarray(Image.open(file), dtype=int) for file in sorted(self.store.path(ref).rglob("*.png"))]


@pytest.fixture(scope="module")
def world(random_sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("sd15"), random_sd15)


@pytest.fixture(autouse=True)
def inside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)


@pytest.mark.ci
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_from_pictures_to_a_report(world: World, method: str) -> None:
    refs = world.run(method)
    assert (world.store.path(refs["report"]) / "report.html").is_file()
    base, candidate = (world.pictures(refs[f"images/{role}"]) for role in ("base", "candidate"))
    assert any((a != b).any() for a, b in zip(base, candidate, strict=True)), "something was learned"
    assert ("class_images" in refs) is (method == "dreambooth") and ("text" in refs) is (method != "text")
    exports = {file.name for file in world.store.path(refs["train"]).iterdir()}
    assert ("unet" in exports) is (method == "full") and ("kohya_lora.safetensors" in exports) is (method != "full")
    world.run(method)
    assert world.built == []


def test_both_formats_of_a_lora_are_exported(world: World, tmp_path: Path) -> None:
    world.run("lora")
    for form, architecture in (("kohya", "stable-diffusion-v1/lora"), ("diffusers", "stable-diffusion-v1/lora")):
        file = tmp_path / f"{form}.safetensors"
        export(world.store, "lora", Wanted(form), file)  # type: ignore[arg-type]
        with safe_open(file, "pt") as opened:
            assert opened.metadata()["modelspec.architecture"] == architecture
            assert opened.metadata()["modelspec.implementation"] == "diffusers"
        pipeline = StableDiffusionPipeline.from_pretrained(
            world.folder / "sd15", safety_checker=None, feature_extractor=None
        )
        pipeline.load_lora_weights(file)
        assert pipeline.get_active_adapters()


@pytest.mark.ci
def test_a_full_fine_tune_is_exported_merged_and_extracted(world: World, tmp_path: Path) -> None:
    world.run("full")
    export(world.store, "full", Wanted("diffusers"), tmp_path / "tuned")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "tuned")
    assert pipeline.safety_checker is None
    located = locate_base_model(ModelConfig(family="sd15", base=str(tmp_path / "tuned")), world.store.digest_file)
    base = ModelConfig(base=str((world.folder / "sd15").resolve()))
    tuned = ModelConfig(base=str(located.folder))
    extract(base, tuned, Ranks(64, conv_rank=512), "cpu", Writing(tmp_path / "made.safetensors"))
    merge_into_base(base, [(tmp_path / "made.safetensors", 1.0)], Writing(tmp_path / "merged"))
    file = Path("unet") / "diffusion_pytorch_model.safetensors"
    wanted, got = load_file(tmp_path / "tuned" / file), load_file(tmp_path / "merged" / file)
    name = "down_blocks.0.attentions.0.proj_in.weight"
    np.testing.assert_allclose(got[name], wanted[name], atol=1e-5)


# --- at the command line ---


@pytest.mark.ci
@pytest.mark.parametrize("command", ["run", "plan", "doctor"])
@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_the_wrong_family_is_refused_before_anything_is_loaded(
    cli: Cli, tmp_path: Path, random_sd15: Path, command: str, base: str
) -> None:
    config = write_experiment(tmp_path / "toy")
    if base == "sd15":
        config.write_text(config.read_text().replace("./sdxl", str(random_sd15)))
    else:
        config.write_text(config.read_text().replace("base: ./sdxl", "family: sd15, base: ./sdxl"))
    before = "import atexit; atexit.register(lambda: print('torch:', 'torch' in sys.modules))"
    done = cli(command, config, before=before)
    assert done.returncode == 2, done.stderr
    assert f"set model.family={base}" in done.stderr and "Traceback" not in done.stderr
    assert "torch: False" in done.stdout and not (tmp_path / "runs").exists()


def test_the_second_text_encoder_is_refused(cli: Cli, world: World) -> None:
    done = cli("plan", world.config, "--set", "training.text_encoders={}")
    assert done.returncode == 2 and "set training.text_encoders.second=false" in done.stderr
    assert "has no text_encoder_2" in done.stderr


@pytest.mark.ci
def test_doctor_and_verify_know_it(cli: Cli, world: World) -> None:
    found = cli("doctor", world.config, "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["rows_per_step"] == 1
    refs = world.run("lora")
    done = cli("artifacts", "verify", f"report/{refs['report'].key}", "--store", world.store.root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unchanged" in done.stdout.splitlines()[-1]


# --- what configurations mean ---


def test_pictures_have_the_familys_size_where_nothing_is_said() -> None:
    document = {
        "name": "x",
        "model": {"base": "/x"},
        "dataset": {"path": "/x"},
        "prior": {"prompt": "x", "sampling": {"steps": 3}},
        "sampling": {"height_px": 768},
        "evaluation": {"prompts": "/x", "metrics": [{"metric": "clip_i", "model": "/x", "primary": True}]},
    }
    xl = PipelineConfig.model_validate(document)
    small = PipelineConfig.model_validate(document | {"model": {"base": "/x", "family": "sd15"}})
    for config, side in ((xl, 1024), (small, 512)):
        assert config.transform.resolution_px == side and config.prior is not None
        assert (config.sampling.width_px, config.sampling.height_px) == (side, 768)
        assert (config.prior.sampling.width_px, config.prior.sampling.steps) == (side, 3)
    assert "family" not in xl.model_dump(exclude_unset=True)["model"], "which the report's key would show"
    again = PipelineConfig.model_validate(small.model_dump(mode="json", exclude_unset=True))
    assert again == small
