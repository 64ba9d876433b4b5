"""Laws of the draws, the noise schedule and the average."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from sdxl_core import randomness
from sdxl_core.prompts import prompt_seed
from sdxl_core.schedule import NoiseSchedule

REFERENCE = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def schedule(prediction_type: str = "epsilon") -> NoiseSchedule:
    return NoiseSchedule(REFERENCE.alphas_cumprod, prediction_type)


def test_draws_depend_on_their_counters_alone() -> None:
    first = randomness.normal((4,), "noise", 0, 5, 2)
    torch.rand(17)  # other use of randomness in between
    assert torch.equal(first, randomness.normal((4,), "noise", 0, 5, 2))
    assert not torch.equal(first, randomness.normal((4,), "noise", 0, 5, 3))
    assert not torch.equal(first, randomness.normal((4,), "posterior", 0, 5, 2))
    assert randomness.derived_seed("a", 1, 23) != randomness.derived_seed("a", 12, 3)


def test_zero_is_a_seed() -> None:
    """And not "no seed": what it draws comes again, and is not what another seed draws."""
    for draw in (randomness.derived_seed, lambda *parts: prompt_seed(parts[-1], "a", 0)):
        assert draw("noise", 0) == draw("noise", 0) != draw("noise", 1)


def test_draws_are_distributed_as_they_say() -> None:
    integers = [randomness.integer(10, "t", i) for i in range(5000)]
    counts = [integers.count(v) for v in range(10)]
    assert sum((c - 500) ** 2 / 500 for c in counts) < 33.7  # chi-square, 9 degrees of freedom, p = 1e-4
    normals = torch.cat([randomness.normal((8,), "n", i) for i in range(2000)])
    assert abs(normals.mean()) < 0.03 and abs(normals.std() - 1) < 0.03
    assert sorted(randomness.permutation(50, "order", 1)) == list(range(50))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_schedule_agrees_with_diffusers(prediction_type: str) -> None:
    x, eps, t = torch.randn(5, 4, 3, 3), torch.randn(5, 4, 3, 3), torch.tensor([0, 1, 400, 998, 999])
    ours = schedule(prediction_type)
    assert torch.allclose(ours.add_noise(x, eps, t), REFERENCE.add_noise(x, eps, t), atol=1e-6)
    expected = eps if prediction_type == "epsilon" else REFERENCE.get_velocity(x, eps, t)
    assert torch.allclose(ours.target(x, eps, t), expected, atol=1e-6)
