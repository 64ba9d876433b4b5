"""What it costs to make stages in parts: `python -m benchmarks.fan_out [--engines none threads ...] [--write]`.

The same stages of the miniature (latents, class images and their latents, pictures, scores, and the small ones beside
them) from an empty store by every engine, each in a process of its own with Prefect's temporary server, as `run` starts
it; then once more, with everything there. The digests have to be the same. With `--write`, the table goes into
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.common import provenance, table, write_section
from tasks.fan_out.config import CLUSTERS, EngineName, FanOutConfig

ROOT = Path(__file__).parents[1]


def one(args: argparse.Namespace) -> None:
    """Run all stages by one engine, in `args.folder`; prints what was found as JSON."""
    from tasks.prefect_home import local_prefect
    from tests.flows.fanned import FANNED, Fanned, digests

    fanned = Fanned(args.folder, args.pictures, args.prompts)
    with local_prefect(fanned.store.root):
        started = time.perf_counter()
        refs = fanned.fan_out(FanOutConfig(engine=args.one, shards=args.shards), f"prior.count={args.pictures}")
        body_s = time.perf_counter() - started
    left = sum(fanned.generated(refs).values())
    print(json.dumps({"body_s": body_s, "left": left, "digests": {name: digests(refs)[name] for name in FANNED}}))


def measure(engine: str, folder: Path, sizes: Sequence[str]) -> dict[str, Any]:
    """Wall time and findings of `one` in a process of its own. Raises RuntimeError where it fails."""
    folder.mkdir(exist_ok=True)
    line = [sys.executable, "-m", "benchmarks.fan_out", "--one", engine, "--folder", str(folder), *sizes]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = kept | {"PYTHONPATH": str(ROOT), "HOME": str(folder)}
    started = time.perf_counter()
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{engine}: ended with {done.returncode}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"whole_s": time.perf_counter() - started}


def report(args: argparse.Namespace, folder: Path) -> str:
    """Measure, and say it in Markdown. Raises RuntimeError where an engine's digests are others than the first's."""
    sizes = ["--pictures", str(args.pictures), "--prompts", str(args.prompts), "--shards", str(args.shards)]
    rows, first = [], None
    for engine in args.engines:
        fresh = measure(engine, folder / engine, sizes)
        again = measure(engine, folder / engine, sizes)
        first = first or fresh["digests"]
        if {json.dumps(found["digests"]) for found in (fresh, again)} != {json.dumps(first)}:
            raise RuntimeError(f"{engine}: other digests: {fresh['digests']}, {again['digests']}; expected {first}")
        times = (fresh["body_s"], fresh["whole_s"], again["whole_s"])
        rows.append((f"`{engine}`", *(f"{seconds:.0f} s" for seconds in times), "the same"))
        print(rows[-1], f"{fresh['left']} left for the stages", file=sys.stderr)
    command = " ".join(["python -m benchmarks.fan_out", *sys.argv[1:]])
    made = f"{args.pictures} pictures and as many class images encoded, {args.prompts} pictures drawn and scored"
    load = f"Load of the machine at the end: {os.getloadavg()[0]:.1f}."
    return "\n\n".join(
        [
            f"{provenance(command, torch.device('cpu'))} {load} {made}; {args.shards} shards; one round.",
            table(("engine", "flow", "whole process", "again, all there", "digests of five stages"), rows),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = get_args(EngineName)
    present = [name for name in names if name not in CLUSTERS or importlib.util.find_spec(f"prefect_{name}")]
    parser.add_argument("--engines", nargs="+", choices=names, default=present)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--one", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        one(args)
        return
    with tempfile.TemporaryDirectory(prefix="sdxl-flows-fan-out-") as name:
        text = report(args, Path(name))
    print(text)
    if args.write:
        write_section("fan out", text)


if __name__ == "__main__":
    main()
