"""Do two machines share a bucket without doing work twice? `python -m benchmarks.shared_store [--kills 20]`.

A local S3 server, and two folders that each run the same experiment by `sdxl-flows run`, with a cache of its own and
all artifacts, cells and bundles in the bucket. Each is killed with SIGKILL at random moments, with all its processes or
without, and started again, until both are done; then again from an empty bucket, until all kills are done. Both have to
end with the digests of an undisturbed run, and no stage may have been built more often than kills explain. Prints what
docs/shared-store.md tells.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.survival import CONFIG, PROMPTS, ROOT
from tasks.runs import read_runs
from tasks.store import ArtifactStore, StorePlace
from tests.buckets import BUCKET, s3_server

NAMES = ("one", "two")
LEASE_S = 10
_BUILT = re.compile(r"^(\S+) +built in", re.MULTILINE)


@dataclass
class Machine:
    """A folder that runs the experiment, again and again until it is done."""

    folder: Path
    url: str
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "survivor.yaml").write_text(CONFIG)
        (self.folder / "prompts.txt").write_text("".join(f"a photo of a person {n}\n" for n in range(PROMPTS)))
        self.start()

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {"PYTHONPATH": str(ROOT), "SDXL_FLOWS_STORE": self.url, "SDXL_FLOWS_CPU_SLOTS": "1"}
        environment |= {"SDXL_FLOWS_CACHE": str(self.folder / "cache"), "SDXL_FLOWS_LEASE_S": str(LEASE_S)}
        line = [sys.executable, "-m", "flows.cli", "run", "survivor.yaml"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(line, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def kill(self, with_children: bool) -> None:
        processes = [psutil.Process(self.process.pid)]
        processes += processes[0].children(recursive=True) if with_children else []
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    @property
    def built(self) -> Counter[str]:
        return Counter(_BUILT.findall(self.log.read_text()))


@dataclass(frozen=True)
class Round:
    """From an empty bucket until both are done."""

    kills: int
    seconds: float
    built: Counter[str]
    digests: dict[str, str]
    """By label, where both machines and the undisturbed run agree; else empty."""

    @property
    def twice(self) -> dict[str, int]:
        return {label: count - 1 for label, count in self.built.items() if count > 1}


def recorded(url: str, folder: Path) -> list[dict[str, str]]:
    """Digests by label of every run that has ended, on whichever machine."""
    store = ArtifactStore.at(StorePlace(str(folder), "auto", url))
    return [{label: ref.digest for label, ref in run.refs.items()} for run in read_runs(store)]


def one_round(folder: Path, url: str, kills: int, rng: random.Random, expected: dict[str, str] | None) -> Round:
    began, killed = time.monotonic(), 0
    machines = {name: Machine(folder / name, url) for name in NAMES}
    while any(machine.process.poll() is None for machine in machines.values()):
        time.sleep(rng.uniform(3, 20) if killed < kills else 0.5)
        machine = machines[rng.choice(NAMES)]
        if killed < kills and machine.process.poll() is None:
            machine.kill(with_children=rng.random() < 0.5)
            machine.start()
            killed += 1
    for name, machine in machines.items():
        if machine.process.returncode != 0:
            raise SystemExit(f"{name} ended with {machine.process.returncode}:\n{machine.log.read_text()[-3000:]}")
    found = recorded(url, folder / "reader")
    built = sum((machine.built for machine in machines.values()), Counter[str]())
    equal = len(found) >= len(NAMES) and all(each == (expected or found[0]) for each in found)
    return Round(killed, time.monotonic() - began, built, found[0] if equal else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rng, left, rounds = random.Random(chosen.seed), chosen.kills, list[Round]()
    with tempfile.TemporaryDirectory(prefix="sdxl-flows-shared-") as place, s3_server():
        folder = Path(place)
        undisturbed = one_round(folder / "undisturbed", f"s3://{BUCKET}/undisturbed", 0, rng, None)
        print(f"undisturbed: {undisturbed.seconds:.0f} s, {undisturbed.built.total()} stages built", flush=True)
        while left > 0:
            number = len(rounds)
            rounds.append(one_round(folder / str(number), f"s3://{BUCKET}/{number}", left, rng, undisturbed.digests))
            last, left = rounds[-1], left - rounds[-1].kills
            again = ", ".join(f"{label} {count}" for label, count in last.twice.items()) or "none"
            digests = "equal" if last.digests else "DIFFER"
            print(f"{last.kills} kills: {last.seconds:.0f} s, digests {digests}, built again: {again}", flush=True)
    if (
        undisturbed.twice
        or not undisturbed.digests
        or not all(each.digests and sum(each.twice.values()) <= each.kills for each in rounds)
    ):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
