"""How often does a killed run end otherwise than an undisturbed one? `python -m benchmarks.kill [--runs 100]`.

Trains on the shipped miniature with LoRA, DreamBooth (LoRA with class images) and full fine-tuning in turn. Every run
is killed (SIGKILL) once or more, at random moments of its whole life, and started again until it ends; what it leaves
is compared with what an undisturbed run leaves. Some of the kills wait for a save and strike inside it, and some
strike while latents are being cached. Half of those that meet a trainer kill it alone, the others everything.
Prints a table to paste into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

WEIGHTS = Path(__file__).parents[1] / "sdxl_core" / "miniature" / "weights"
PICTURES = Path(__file__).parents[1] / "configs" / "miniature" / "kestrel"
COMMON = """\
model: {{base: {weights}/sdxl}}
dataset: {{path: {pictures}}}
transform: {{resolution_px: 64}}
sampling: {{steps: 2, width_px: 64, height_px: 64}}
runtime: {{device: cpu}}
evaluation: {{prompts: ./prompts.txt, metrics: [{{metric: clip_i, model: {weights}/clip, primary: true}}]}}
"""
PRIOR = "prior: {prompt: a photo of a person, count: 4, sampling: {steps: 2, width_px: 64, height_px: 64}}\n"
TRAINING = "training: {{{}, max_steps: 16, micro_batch_size: 2, save_every_steps: 2, log_every_steps: 1, seed: 3}}\n"
METHODS = {
    "LoRA": TRAINING.format("adapter: {kind: lora, rank: 8, dropout: 0.1}, learning_rate: 1e-3"),
    "DreamBooth": PRIOR
    + TRAINING.format("objective: {kind: prior_preservation}, ema: {decay: 0.9}, learning_rate: 1e-3"),
    "full": TRAINING.format("adapter: {kind: full}, learning_rate: 1e-5"),
}
SHARE_FROM_NOTHING = 0.2
"""Of runs that begin with no cache; for the others the time goes into training, where most is at stake."""
RUN = """\
import sys
from pathlib import Path
from benchmarks.kill import train_once
train_once(Path(sys.argv[1]))
"""


@dataclass
class Outcome:
    """One run, killed and started again until it ended."""

    method: str
    kills: Counter[str] = field(default_factory=Counter)
    """By what the run was doing."""
    equal: bool = False


def train_once(folder: Path) -> None:
    """The pipeline of `folder` up to its training, in this process; prints the training's content digest."""
    from flows.wiring import finetune
    from tasks.experiment import prepare_experiment
    from tasks.stage import Call, Handle, Pending, materialise
    from tasks.store import ArtifactStore
    from tasks.yaml_config import read_config

    store = ArtifactStore(folder / "store")
    found: dict[str, str] = {}

    def run(call: Call) -> Handle:
        if call.stage.kind in ("images", "scores", "comparison", "report"):
            return Pending(call.stage.kind, call.label)
        ref = materialise(call, store, "cpu")
        found[call.label] = ref.digest
        return ref

    finetune(prepare_experiment(read_config(folder / "run.yaml", []), store, "benchmark"), run)
    print(found["train"])


def prepare(folder: Path, method: str, cached: Path | None = None) -> None:
    """An experiment's folder; with what another one has cached, or with nothing."""
    folder.mkdir(parents=True)
    if cached is not None:
        trained = shutil.ignore_patterns("train", "trainings")
        shutil.copytree(cached / "store", folder / "store", ignore=trained)
    common = COMMON.format(weights=WEIGHTS, pictures=PICTURES)
    (folder / "run.yaml").write_text(f"name: {method.lower()}\n{common}{METHODS[method]}")
    (folder / "prompts.txt").write_text("a photo of a person\n")


def start(folder: Path) -> subprocess.Popen[str]:
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    line = [sys.executable, "-c", RUN, str(folder)]
    with (folder / "stderr.log").open("a") as errors:
        return subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | threads, start_new_session=True
        )


def doing(folder: Path) -> str:
    """What a run is at, from what is on the disk."""
    store = folder / "store"
    if list(store.glob("trainings/*/bundles/.staging-*")):
        return "a save"
    if list(store.glob("trainings/*/bundles/step-*")):
        return "training"
    if list(store.glob("artifacts/text/*")):
        return "start of training"
    return "caching"


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and not condition():
        time.sleep(0.0005)


def strike(folder: Path, chance: random.Random, life_s: float) -> str | None:
    """Start the run, kill it at a moment of chance; returns what it was doing, or None if it had ended."""
    process = start(folder)
    aim = chance.choices(["any moment", "a save", "caching"], [6, 3, 1])[0]
    if aim == "caching":
        wait_until(lambda: bool(list((folder / "store").glob("cells/*/??/*"))), process, life_s)
        time.sleep(chance.random() * 0.2)
    elif aim == "a save":
        wait_until(lambda: doing(folder) == "training", process, life_s)
        time.sleep(chance.random() * 1.5)
        wait_until(lambda: doing(folder) == "a save", process, life_s)
        time.sleep(chance.random() * 0.02)
    else:
        time.sleep(chance.random() * life_s)
    was_doing = doing(folder)
    if process.poll() is not None:
        return None
    kill_all(process, chance)
    return was_doing


def kill_all(process: subprocess.Popen[str], chance: random.Random) -> None:
    """kill -9 of the trainer alone, or of everything at once."""
    trainers = [pid for pid in descendants(process.pid) if b"sdxl_core.train" in command_of(pid)]
    if trainers and chance.random() < 0.5:
        victims: Sequence[int] = trainers
    else:
        victims = [process.pid, *descendants(process.pid)]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def descendants(root: int) -> list[int]:
    done = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True)
    parents = [tuple(map(int, line.split())) for line in done.stdout.splitlines()[1:]]
    found = [root]
    for pid in found:
        found += [child for child, parent in parents if parent == pid]
    return found[1:]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@dataclass(frozen=True)
class Peace:
    """An undisturbed run."""

    folder: Path
    digest: str
    life_s: dict[bool, float]
    """How long it takes, from nothing (True) or with everything but the training cached."""


def undisturbed(method: str, root: Path) -> Peace:
    folder = root / f"undisturbed-{method}"
    prepare(folder, method)
    digest, from_nothing_s = finish(folder)
    prepare(root / f"cached-{method}", method, folder)
    again, cached_s = finish(root / f"cached-{method}")
    if not digest or digest != again:
        raise SystemExit(f"undisturbed runs differ or failed; see {root}")
    return Peace(folder, digest, {True: from_nothing_s, False: cached_s})


def finish(folder: Path) -> tuple[str, float]:
    """Run to the end; returns the training's digest, or nothing if it failed, and the seconds taken."""
    began = time.monotonic()
    process = start(folder)
    said, _ = process.communicate(timeout=600)
    return said.strip() if process.returncode == 0 else "", time.monotonic() - began


def torment(number: int, method: str, root: Path, peace: Peace, seed: int) -> Outcome:
    """One run, killed at least once and started again until it ends."""
    folder, chance = root / f"{number}", random.Random(f"{seed}/{number}")
    outcome = Outcome(method)
    from_nothing = chance.random() < SHARE_FROM_NOTHING
    while not outcome.kills:
        shutil.rmtree(folder, ignore_errors=True)
        prepare(folder, method, None if from_nothing else peace.folder)
        for _ in range(chance.choice([1, 1, 2, 3])):
            if was_doing := strike(folder, chance, peace.life_s[from_nothing]):
                outcome.kills[was_doing] += 1
    digest, _ = finish(folder)
    outcome.equal = digest == peace.digest
    if outcome.equal:
        shutil.rmtree(folder)
    else:
        print(f"run {number} ({method}) ended with {digest or 'an error'}; see {folder}", flush=True)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="sdxl-flows-kill-"))
    expected = {method: undisturbed(method, root) for method in METHODS}
    names = list(METHODS)

    def one(number: int) -> Outcome:
        method = names[number % len(names)]
        outcome = torment(number, method, root, expected[method], args.seed)
        print(json.dumps({"run": number, "method": method, "kills": outcome.kills, "equal": outcome.equal}), flush=True)
        return outcome

    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(one, range(args.runs)))
    print(table(outcomes))
    if all(outcome.equal for outcome in outcomes):
        shutil.rmtree(root)
    else:
        sys.exit(1)


def table(outcomes: Sequence[Outcome]) -> str:
    where = ["caching", "start of training", "training", "a save"]
    lines = [f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}", ""]
    lines += [
        f"| method | runs | {' | '.join(f'kills in {w}' for w in where)} | equal digests |",
        "|---|" + "---:|" * 6,
    ]
    for method in METHODS:
        some = [outcome for outcome in outcomes if outcome.method == method]
        kills: Counter[str] = sum((outcome.kills for outcome in some), Counter())
        counts = " | ".join(str(kills[w]) for w in where)
        lines.append(f"| {method} | {len(some)} | {counts} | {sum(outcome.equal for outcome in some)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
