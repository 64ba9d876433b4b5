"""The loss by timestep: each row in its bin, however a step is split."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from sdxl_core.loss_by_timestep import BINS, bin_means, bin_names, bin_sums
from sdxl_core.objectives import Rows
from tests.sdxl_core.jobs import LORA, Jobs, history, run

CPU = torch.device("cpu")


@pytest.mark.parametrize("timesteps", [1000, 1003, 64, 10])
def test_each_row_is_in_the_bin_that_is_named_after_its_timestep(timesteps: int) -> None:
    t, error = torch.arange(timesteps), torch.rand(timesteps)
    means = bin_means(bin_sums(Rows(t, error), timesteps, CPU), timesteps)
    assert list(means) == bin_names(timesteps) and len(means) == BINS
    for name, mean in means.items():
        low, high = (int(end) for end in name.partition("/")[2].split("-"))
        assert mean == pytest.approx(float(error[low : high + 1].mean()), rel=1e-5)


def test_bins_without_a_row_are_no_number_and_bad_rows_spoil_only_their_own() -> None:
    rows = Rows(torch.tensor([5, 5, 950]), torch.tensor([1.0, 3.0, math.nan]))
    means = list(bin_means(bin_sums(rows, 1000, CPU), 1000).values())
    assert float(means[0]) == 2.0
    assert all(math.isnan(float(mean)) for mean in means[1:])
    assert all(math.isnan(float(mean)) for mean in bin_means(bin_sums(None, 1000, CPU), 1000).values())


@pytest.mark.ci
@pytest.mark.parametrize("objective", ["diffusion", "prior_preservation"])
def test_the_bins_of_a_step_make_up_its_unweighted_loss(jobs: Jobs, tmp_path: Path, objective: str) -> None:
    """With one row a step there is one bin, and it is the whole; two rows in two passes are in one line, too."""
    one = jobs(tmp_path / "one", objective={"kind": objective}, adapter=LORA, micro_batch_size=1, max_steps=4)
    assert run(one)
    for row in history(one):
        assert [value for name, value in row.items() if name.startswith("timesteps/")] == [row["unweighted"]]
    splits = [
        jobs(tmp_path / f"{size}", objective={"kind": objective}, adapter=LORA, max_steps=2, **split)
        for size, split in enumerate(({"micro_batch_size": 4}, {"micro_batch_size": 1, "accumulation_steps": 4}))
    ]
    assert all([run(job) for job in splits])
    for whole, split in zip(*map(history, splits), strict=True):
        assert whole.keys() == split.keys()
        bins = {name: value for name, value in whole.items() if name.startswith("timesteps/")}
        assert bins == pytest.approx({name: split[name] for name in bins}, rel=1e-4)
