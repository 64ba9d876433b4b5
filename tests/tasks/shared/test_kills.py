"""Two machines, one bucket, and SIGKILL."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.shared.leases import LASTS_S
from tasks.store import ArtifactStore, StorePlace
from tests.tasks.shared.worker import STAGES

WITHIN_S = 300
NAMES = ("one", "two")


@dataclass(frozen=True)
class Trial:
    """Machines that each work through the same chain, from nothing, until they are done."""

    folder: Path
    url: str

    def start(self, name: str) -> subprocess.Popen[str]:
        self.folder.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "tests.tasks.shared.worker", str(self.folder / name), self.url, str(self.log)]
        environment = {**os.environ, LASTS_S: "1.5"}
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @property
    def log(self) -> Path:
        return self.folder / "built.log"

    @property
    def built(self) -> Counter[str]:
        return Counter(self.log.read_text().split())

    def killed(self, kills: int, rng: random.Random) -> int:
        """Kill a machine now and then, and start it again, until both are done; returns how often, at most `kills`."""
        machines, killed = {name: self.start(name) for name in NAMES}, 0
        while any(machine.poll() is None for machine in machines.values()):
            time.sleep(rng.uniform(0.1, 2.0))
            name = rng.choice(NAMES)
            if killed < kills and machines[name].poll() is None:
                machines[name].kill()
                machines[name].communicate()
                machines[name] = self.start(name)
                killed += 1
        for machine in machines.values():
            ended(machine)
        return killed


def ended(machine: subprocess.Popen[str]) -> dict[str, str]:
    """What a machine says in the end: the digests of all artifacts, by label."""
    said, complaint = machine.communicate(timeout=WITHIN_S)
    assert machine.returncode == 0, complaint[-3000:]
    found: dict[str, str] = json.loads(said)
    return found


def test_two_machines_do_no_work_twice(s3_url: str, tmp_path: Path) -> None:
    trial = Trial(tmp_path, s3_url)
    first, second = map(ended, [trial.start(name) for name in NAMES])
    assert first == second and len(first) == STAGES
    assert trial.built == dict.fromkeys(first, 1)


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_tear_nothing_and_lose_nothing(kills: int, s3_url: str, file_url: str, tmp_path: Path) -> None:
    """Of either machine, at random moments. Every machine reads every byte of every artifact that it gets."""
    expected = ended(Trial(tmp_path / "undisturbed", file_url).start("one"))
    rng, left = random.Random(kills), kills
    while left:
        trial = Trial(tmp_path / f"with {left} to go", f"{s3_url}-{left}")
        killed = trial.killed(left, rng)
        left -= killed
        for name in NAMES:
            store = ArtifactStore.at(StorePlace(str(trial.folder / name), "digests", trial.url))
            manifests = list(store.manifests())
            assert {manifest.label: manifest.digest for manifest in manifests} == expected
            assert all(store.find(manifest.recipe.kind, manifest.key) for manifest in manifests), "read whole"
        again = trial.built.total() - STAGES
        assert 0 <= again <= killed, "a kill costs what was being built, at most"
