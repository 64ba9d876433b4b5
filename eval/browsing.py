"""A comparison pair by pair, for a page that fetches its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.booth import ShownPair
from eval.gallery import Badge, PairFindings
from eval.pairing import paired_by_name
from eval.result import read_comparison
from eval.table import read_scores


@dataclass(frozen=True)
class BrowsedPair:
    shown: ShownPair
    badges: Sequence[Badge]
    gains: dict[str, float]
    """Metric -> improvement, positive is better."""


@dataclass(frozen=True)
class Browsed:
    metrics: dict[str, str]
    """Name -> title, of those that judge pairs or prompts: what one can sort by."""
    pairs: Sequence[BrowsedPair]


def browsed(pairs: Sequence[ShownPair], comparison: Path) -> Browsed:
    """Raises EvalError where the folder holds no comparison."""
    found, rows = read_comparison(comparison), read_scores(comparison)
    paired = paired_by_name(found.judged, rows, (shown.base for shown in pairs))
    findings = PairFindings(found, rows, paired)
    metrics = {one.facts.name: one.facts.title for one in found.judged if one.facts.scored != "board"}
    return Browsed(metrics, [BrowsedPair(shown, *findings.of(shown.base.key)) for shown in pairs])
