"""An experiment of two steps on the miniature, and its evaluations, run without Prefect."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from flows.wiring import LEARNT, evaluate, finetune
from tasks.experiment import Experiment, prepare_experiment
from tasks.manifest import Ref
from tasks.plan import Expecting
from tasks.references import as_local
from tasks.runs import Recorder, record_run
from tasks.stage import Call, materialise
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config
from tests.flows.test_pipeline import WEIGHTS, write_pictures

CONFIG = f"""\
name: short
model: {{base: {WEIGHTS}/sdxl}}
dataset: {{path: ./pictures}}
transform: {{resolution_px: 64}}
training:
  objective: {{kind: diffusion}}
  adapter: {{kind: lora, rank: 2}}
  learning_rate: 5e-2
  max_steps: 2
  save_every_steps: 1
  keep_bundles: 2
  ema: {{decay: 0.5}}
sampling: {{steps: 1, width_px: 64, height_px: 64}}
evaluation:
  prompts: ./prompts.jsonl
  metrics:
    - {{metric: clip_i, model: {WEIGHTS}/clip, primary: true}}
    - {{metric: ssim}}
"""
PROMPTS = [{"id": "beach", "prompt": "a photo of kestrel person on a beach"}, {"id": "night", "prompt": "at night"}]
LORA = "pytorch_lora_weights.safetensors"


class Evaluations:
    """Of one experiment, run without Prefect; `built` are the labels of the stages of the last one that ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ArtifactStore(folder / "store")
        self.built: list[str] = []

    def prepare(self, candidate: str = "trained", overrides: Sequence[str] = ()) -> Experiment:
        return self.prepare_several([candidate], overrides)

    def prepare_several(self, candidates: Sequence[str], overrides: Sequence[str] = ()) -> Experiment:
        given = [as_local(candidate) for candidate in candidates]
        return prepare_experiment(read_config(self.folder / "short.yaml", overrides, given), self.store, "test")

    def run(self, candidate: str | Sequence[str] = "trained", *overrides: str, train: bool = False) -> dict[str, Ref]:
        def run(call: Call) -> Ref:
            if self.store.find_whole(call.recipe().kind, call.recipe().key) is None:
                self.built.append(call.label)
            return materialise(call, self.store, "cpu")

        self.built.clear()
        recorder = Recorder(run)
        with contextlib.chdir(self.folder):
            named = [candidate] if isinstance(candidate, str) else candidate
            experiment = self.prepare_several(named, overrides)
            if train:
                finetune(experiment, recorder)
                record_run(self.store, "short", "test", recorder.refs)
            else:
                evaluate(experiment, Expecting(LEARNT, self.store, recorder))
        return recorder.refs

    def trained(self) -> Path:
        [manifest] = self.store.manifests("train")
        return self.store.path(manifest.ref)

    def file(self, refs: dict[str, Ref], label: str, name: str) -> Any:
        return json.loads((self.store.path(refs[label]) / name).read_text())

    def drawn(self, refs: dict[str, Ref], role: str = "candidate") -> list[str]:
        """Digests of a role's pictures."""
        lines = (self.store.path(refs[f"images/{role}"]) / "records.jsonl").read_text().splitlines()
        return [json.loads(line)["image_sha256"] for line in lines]


def train_short(folder: Path) -> None:
    """Run it, and leave two LoRA files beside it: what it has learned, and something else."""
    write_pictures(folder / "pictures", 3)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    (folder / "short.yaml").write_text(CONFIG)
    evaluations = Evaluations(folder)
    evaluations.run(train=True)
    shutil.copyfile(evaluations.trained() / LORA, folder / "dog.safetensors")
    tensors = {name: -0.5 * t if "lora_B" in name else t for name, t in load_file(folder / "dog.safetensors").items()}
    save_file(tensors, folder / "style.safetensors")
