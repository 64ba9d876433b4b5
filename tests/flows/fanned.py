"""An experiment on the miniature whose stages fan out, run under Prefect."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

from flows.wiring import cache, self_test
from tasks.config import RuntimeConfig
from tasks.experiment import prepare_experiment
from tasks.fan_out.config import FanOutConfig
from tasks.manifest import Ref
from tasks.runs import Recorder
from tasks.stage import Call, Runner, materialise
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config
from tests.flows.test_pipeline import WEIGHTS, write_pictures

CONFIG = f"""\
name: fanned
model: {{base: {WEIGHTS}/sdxl}}
dataset: {{path: ./pictures}}
transform: {{resolution_px: 64}}
prior: {{prompt: a photo of a person, count: 3, sampling: {{steps: 1, width_px: 64, height_px: 64, batch_size: 2}}}}
training: {{objective: {{kind: prior_preservation}}, max_steps: 1, learning_rate: 1e-3}}
sampling: {{steps: 2, width_px: 64, height_px: 64, batch_size: 2}}
evaluation:
  prompts: ./prompts.txt
  replicates: 1
  metrics:
    - {{metric: clip_score, model: {WEIGHTS}/clip, primary: true}}
    - {{metric: clip_i, model: {WEIGHTS}/clip}}
"""
FANNED = ("class_images", "latents", "class_latents", "images/base", "scores")
"""What fans out of it."""


class Fanned:
    """In a folder of its own."""

    def __init__(self, folder: Path, pictures: int = 3, prompts: int = 5) -> None:
        self.folder, self.store = folder, ArtifactStore(folder / "store")
        write_pictures(folder / "pictures", pictures)
        (folder / "prompts.txt").write_text("".join(f"a photo of a person {n}\n" for n in range(prompts)))
        (folder / "fanned.yaml").write_text(CONFIG)

    def go(self, run: Runner, *overrides: str) -> dict[str, Ref]:
        recorder = Recorder(run)
        with contextlib.chdir(self.folder):
            experiment = prepare_experiment(read_config(self.folder / "fanned.yaml", overrides), self.store, "test")
            cache(experiment, recorder)
            self_test(experiment, recorder)
        return recorder.refs

    def local(self, *overrides: str) -> dict[str, Ref]:
        """Everything, without any engine."""
        return self.go(lambda call: materialise(call, self.store, "cpu"), *overrides)

    def fan_out(self, fan_out: FanOutConfig, *overrides: str) -> dict[str, Ref]:
        """Everything, as a flow."""
        from prefect import flow

        from tasks.policies import prefect_runner

        runtime = RuntimeConfig(device="cpu", fan_out=fan_out)

        @flow(name="fanned")
        def run_all() -> dict[str, Ref]:
            return self.go(prefect_runner(self.store, runtime, "fanned"), *overrides)

        return run_all()

    def only(self, call: Call, runtime: RuntimeConfig) -> Ref:
        """One stage, as a flow."""
        from prefect import flow

        from tasks.policies import prefect_runner

        @flow(name="fanned")
        def run_one() -> dict[str, str]:
            ref = prefect_runner(self.store, runtime, "fanned")(call)
            assert isinstance(ref, Ref)
            return ref.model_dump()

        return Ref.model_validate(run_one())

    def generated(self, refs: dict[str, Ref]) -> dict[str, int]:
        """What stages made themselves, because no shard had."""
        found = {label: self.store.summary(ref) for label, ref in refs.items() if label in FANNED}
        return {label: said.get("generated", said.get("encoded", 0)) for label, said in found.items()}

    def calls(self, *overrides: str) -> dict[str, Call]:
        """All stages that fan out, with their inputs there."""
        found: dict[str, Call] = {}

        def run(call: Call) -> Ref:
            found[call.label] = call
            return materialise(call, self.store, "cpu")

        self.go(run, *overrides)
        return {label: found[label] for label in FANNED}


def digests(refs: dict[str, Ref]) -> dict[str, str]:
    return {label: ref.digest for label, ref in refs.items()}


def fresh(call: Call, name: str) -> Call:
    """The same under another key."""
    return replace(call, params={**call.params, "fresh": name})


def written(text: str) -> dict[str, str]:
    return dict(json.loads(text))
