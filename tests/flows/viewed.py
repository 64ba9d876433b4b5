"""A finished run on the miniature, and what one sees of it in the page of `sdxl-flows view`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from flows.viewer.app import make_app
from flows.wiring import LEARNT, evaluate, finetune
from tasks.experiment import prepare_experiment
from tasks.manifest import Ref
from tasks.plan import Expecting, Planner
from tasks.runs import Recorder, publish
from tasks.stage import Call, materialise
from tasks.store import ArtifactStore
from tasks.studio import Studio, Watching
from tasks.viewing import Viewing
from tasks.yaml_config import read_config
from tests.flows.test_pipeline import WEIGHTS, write_pictures

HOSTILE = "<img src=x onerror=alert(1)> {{ 7 * 7 }}"
CONFIG = f"""\
name: voted
model: {{base: {WEIGHTS}/sdxl}}
dataset: {{path: ./pictures}}
transform: {{resolution_px: 64}}
training:
  adapter: {{kind: lora, rank: 2}}
  learning_rate: 5e-2
  max_steps: 2
sampling: {{steps: 2, width_px: 64, height_px: 64}}
evaluation:
  prompts: ./prompts.jsonl
  metrics:
    - {{metric: saturation}}
    - {{metric: blank}}
    - {{metric: ssim}}
    - {{metric: votes, file: ./votes.jsonl, primary: true}}
"""
PROMPTS = [
    {"id": "beach", "prompt": "a photo of kestrel person on a beach", "category": "place"},
    {"id": "night", "prompt": "a photo of kestrel person at night", "category": "time"},
    {"id": "odd", "prompt": HOSTILE},
]


class World:
    """An experiment in a folder, run without Prefect, and what one sees of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, ArtifactStore(folder / "store")
        self.votes = folder / "votes.jsonl"

    def run(self) -> dict[str, Ref]:
        recorder = Recorder(lambda call: materialise(call, self.store, "cpu"))
        self._wire(recorder)
        publish(self.store, recorder.refs, self.folder / "runs" / "voted")
        return recorder.refs

    def would_run(self) -> list[str]:
        planner = Planner(self.store)
        self._wire(planner)
        return [stage.label for stage in planner.stages if stage.action == "run"]

    def _wire(self, run: Any) -> None:
        with contextlib.chdir(self.folder):
            finetune(prepare_experiment(read_config(self.folder / "voted.yaml"), self.store, "test"), run)

    def studio(self, *overrides: str) -> Studio:
        calls: dict[str, Call] = {}
        with contextlib.chdir(self.folder):
            experiment = prepare_experiment(read_config(self.folder / "voted.yaml", overrides), self.store, "test")
        evaluate(experiment, Watching(Expecting(LEARNT, self.store, Planner(self.store)), self.store, calls))
        return Studio(experiment.name, calls, self.store, "cpu")

    def viewing(self, studio: Studio | None = None) -> Viewing:
        return Viewing(self.store, self.folder / "runs", self.votes, studio)

    def client(self, studio: Studio | None = None) -> TestClient:
        return TestClient(make_app(self.viewing(studio)), base_url="http://127.0.0.1")

    def records(self, role: str) -> list[dict[str, Any]]:
        """Of the run's pictures."""
        [report] = self.store.manifests("report")
        text = (self.store.path(report.recipe.inputs[role]) / "records.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def sides(self) -> dict[str, str]:
        """Digest of a picture -> whose it is."""
        return {line["image_sha256"]: role for role in ("base", "candidate") for line in self.records(role)}


def train_viewed(folder: Path) -> None:
    """Run it, without any vote."""
    write_pictures(folder / "pictures", 3)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    (folder / "voted.yaml").write_text(CONFIG)
    World(folder).run()


def only_report(client: httpx.Client) -> str:
    [report] = client.get("/api/start").json()["reports"]
    assert report["name"] == "voted" and report["title"] == "voted"
    return str(report["id"])


def vote_all(client: httpx.Client, voter: str, place: str) -> list[dict[str, Any]]:
    """-> every ballot, the last one without a pair."""
    id = only_report(client)
    ballots = [client.post("/api/ask", json={"report": id, "voter": voter}).json()]
    while (pair := ballots[-1]["pair"]) is not None:
        casting = {"report": id, "voter": voter, "pair": pair["id"], "place": place}
        ballots.append(client.post("/api/cast", json=casting).json())
    return ballots
