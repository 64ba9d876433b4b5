"""Two finished runs whose training was made up, and the store that has them."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sdxl_core.miniature
from flows.wiring import finetune
from sdxl_core.adapters import ADAPTERS, TRAINED_FILE
from sdxl_core.model import load_unet
from sdxl_core.training_config import TrainingConfig
from tasks.experiment import prepare_experiment
from tasks.manifest import Json
from tasks.runs import Recorder, record_run
from tasks.stage import Call, Handle, Job, materialise
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config
from tests.flows.test_pipeline import write_pictures

MINIATURE = Path(sdxl_core.miniature.__file__).parent / "weights"
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


@pytest.fixture(scope="session")
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
