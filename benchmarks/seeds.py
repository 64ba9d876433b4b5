"""How often intervals over seeds hold the truth where it is known: `python -m benchmarks.seeds [--runs 1000]`.

Differences are mu + a_seed + b_prompt + rest, with mu = 0 and standard deviations of 1 between prompts and of the rest.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from eval.inference import FixedNumber
from eval.seeds import over_seeds


@dataclass(frozen=True)
class Truth:
    seeds: int
    prompts: int
    training_sd: float


TRUTHS = [Truth(seeds, 50, training_sd) for seeds in (3, 5) for training_sd in (0.0, 0.2, 1.0)]


def rates(truth: Truth, runs: int) -> tuple[float, float, float]:
    """-> intervals over seeds that hold the truth, differences found by them, differences found by prompts alone."""
    rng, inference = np.random.default_rng([truth.seeds, truth.prompts, int(100 * truth.training_sd)]), FixedNumber(999)
    held = found = alone = 0
    for _ in range(runs):
        d_SP = (
            truth.training_sd * rng.normal(size=(truth.seeds, 1))
            + rng.normal(size=(1, truth.prompts))
            + rng.normal(size=(truth.seeds, truth.prompts))
        )
        said = over_seeds(d_SP, 0.95, inference, [1], binary=False)
        within = inference.mean(d_SP.mean(axis=0), 0.95, [1], binary=False)
        assert said.interval is not None and said.p is not None and within is not None
        held += said.interval.low <= 0 <= said.interval.high
        found += said.p <= 0.05
        alone += not within.low <= 0 <= within.high
    return held / runs, found / runs, alone / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    print("| seeds | prompts | SD of training | intervals that hold the truth | found | found by prompts alone |")
    print("|---:|---:|---:|---:|---:|---:|")
    for truth in TRUTHS:
        numbers = " | ".join(f"{100 * rate:.1f} %" for rate in rates(truth, runs))
        print(f"| {truth.seeds} | {truth.prompts} | {truth.training_sd:g} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
