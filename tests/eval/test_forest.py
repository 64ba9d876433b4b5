"""Bounds of gates in the forest plot."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from eval import plots
from tests.eval.test_gates import BLANK, CLIP, NOISE, judge

SPREAD = 0.5 * np.std(NOISE, ddof=1)


def drawn(*gates: dict[str, Any]) -> tuple[str, tuple[float, float]]:
    """The figure, and the interval in it."""
    base = 20 + NOISE
    found = judge([{"metric": "m", **gate} for gate in gates], CLIP, base, base + 0.3 + 0.5 * np.roll(NOISE, 7))
    interval = found.judged[0].d_z_interval
    assert found.judged[0].spread == pytest.approx(SPREAD) and interval is not None
    return plots.forest(found.judged, found.gates), interval


def lines(figure: str, style: str) -> list[tuple[float, float]]:
    """Where lines of this style begin and end, across."""
    found = re.findall(rf'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [\d.]+ \n"[^>]*stroke: {re.escape(style)}[; ]', figure)
    return [(float(left), float(right)) for left, right in found]


BAR = "var(--ink); stroke-width: 1.4"


@pytest.mark.parametrize(("require", "margin"), [("not_worse", 0.2), ("not_worse", 0.4), ("better", 0.2)])
def test_a_gate_s_bound_is_drawn_in_standard_deviations(require: str, margin: float) -> None:
    """On the scale that the zero line and the interval's ends make."""
    figure, (low, high) = drawn({"require": require, "margin": margin})
    [(left, right)] = lines(figure, "var(--better); stroke-width: 2.4")
    [(bar, end)] = lines(figure, BAR)
    assert bar == end
    sign = 1 if require == "better" else -1
    assert low + (bar - left) * (high - low) / (right - left) == pytest.approx(sign * margin / SPREAD, abs=1e-3)
    assert "bound of a gate" in figure


def test_gates_at_zero_and_limits_have_no_bar() -> None:
    plain, _ = drawn({"require": "better"})
    assert not lines(plain, BAR) and "bound of a gate" not in plain
    assert plain == drawn({"require": "at_least", "limit": 3})[0] == drawn()[0]


def test_a_bound_far_out_is_an_arrow_with_its_number() -> None:
    figure, _ = drawn({"require": "not_worse", "margin": 100})
    assert not lines(figure, BAR)
    assert f"{-100 / SPREAD:+.1f}".replace("-", "\N{MINUS SIGN}") in figure


def test_lower_is_better_has_its_bound_on_the_same_side() -> None:
    """Left of zero is worse, whichever direction is better."""
    base = np.array([0.0, 1.0] * 30)
    found = judge([{"metric": "m", "require": "not_worse", "margin": 0.3}], BLANK, base, np.roll(base, 1) * (NOISE > 0))
    figure = plots.forest(found.judged, found.gates)
    zero = next(left for left, _ in lines(figure, "var(--muted)") if left > 0)  # before it, a tick's shape
    [(bar, _)] = lines(figure, BAR)
    assert bar < zero
