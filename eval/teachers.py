"""Who taught the scorer: a model that learned from a scorer's data is judged by its own teacher, and wins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from eval.result import JudgedMetric

DATA: dict[str, tuple[str, ...]] = {
    "Pick-a-Pic": ("pickapic", "pickscore"),
    "HPD": ("hpd", "hpsv", "humanpreference"),
    "ImageRewardDB": ("imagereward",),
    "DiffusionDB": ("diffusiondb",),
    "Simulacra Aesthetic Captions": ("simulacra",),
    "LAION": ("laion",),
}
"""Data that people and scorers learn from -> what names of it, of parts of it and of its scorers have in common, in
small letters and digits alone."""


def shared_data(trained_on: Iterable[str], learned_from: Iterable[str]) -> list[str]:
    """Data whose name stands on both sides. Data that goes by another name is not noticed."""
    taught, learned = _named(trained_on), _named(learned_from)
    return [name for name in DATA if name in taught and name in learned]


def _named(texts: Iterable[str]) -> set[str]:
    plain = [re.sub(r"[^a-z0-9]", "", text.lower()) for text in texts]
    return {name for name, marks in DATA.items() if any(mark in text for mark in marks for text in plain)}


def warnings(judges: Sequence[JudgedMetric], learned_from: Sequence[str]) -> list[str]:
    """One sentence for every judge that shares data with what the candidate learned from."""
    shared = {judge.facts.title: shared_data(judge.facts.trained_on, learned_from) for judge in judges}
    return [
        f"{title} and the candidate both learned from {' and '.join(names)}: it is judged by its own teacher. Let "
        "another metric decide."
        for title, names in shared.items()
        if names
    ]
