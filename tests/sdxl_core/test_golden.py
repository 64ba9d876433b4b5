"""Every registered method and option has a preset, a golden curve and a page; and the curves are what they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from sdxl_core.adapters import ADAPTERS
from sdxl_core.data.sources import SOURCES
from sdxl_core.families import FAMILIES
from sdxl_core.losses import LOSSES
from sdxl_core.objectives import OBJECTIVES
from sdxl_core.optimizers import OPTIMIZERS
from sdxl_core.weighting import WEIGHTINGS
from tests.sdxl_core.golden import FILE, ROOT, curves, first_losses, is_installed, read
from tests.tiers import first_of

EXPECTED: dict[str, list[float]] = json.loads(FILE.read_text())
PAGES = "".join(page.read_text() for page in sorted((ROOT / "docs" / "training").glob("*.md")))
REGISTRIES: dict[str, set[str]] = {
    "training.objective.kind": {*OBJECTIVES},
    "training.adapter.kind": {*ADAPTERS},
    "training.optimizer.kind": {*OPTIMIZERS},
    "training.weighting.kind": {*WEIGHTINGS, "uniform"},
    "training.loss.kind": {*LOSSES},
}
METHODS = ("training.objective.kind", "training.adapter.kind")


@pytest.fixture(scope="module")
def cells() -> dict[str, bytes]:
    return {}


def values(key: str, presets_only: bool = False) -> set[str]:
    """What `key` is set to in the presets, or in anything that has a curve."""
    return {at(read(*found).model_dump(), key) for name, found in curves().items() if not presets_only or not found[1]}


def at(document: Any, key: str) -> Any:
    for part in key.split("."):
        document = document[part]
    return document


@pytest.mark.parametrize("name", first_of(curves(), 8))
def test_first_losses_are_what_they_were(name: str, tmp_path: Path, cells: dict[str, bytes]) -> None:
    if not is_installed(name):
        pytest.skip("its optional package is not installed")
    AcceleratorState._reset_state(reset_partial_state=True)
    found = first_losses(read(*curves()[name]), tmp_path, cells)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert found == pytest.approx(EXPECTED[name], rel=2e-3)


def test_no_curve_is_left_over() -> None:
    assert EXPECTED.keys() == curves().keys()


@pytest.mark.ci
@pytest.mark.parametrize("key", REGISTRIES)
def test_everything_registered_has_a_curve(key: str) -> None:
    assert REGISTRIES[key] - values(key) == set()


@pytest.mark.parametrize("key", METHODS)
def test_every_method_has_a_preset(key: str) -> None:
    assert REGISTRIES[key] - values(key, presets_only=True) == set()


@pytest.mark.parametrize("key", [*REGISTRIES, "dataset.source"])
def test_everything_registered_has_a_page(key: str) -> None:
    registered = REGISTRIES.get(key) or {*SOURCES}
    assert {name for name in registered if f"`{name}`" not in PAGES} == set()


def test_real_presets_are_configurations() -> None:
    from tasks.yaml_config import read_config

    found = list(presets())
    assert len(found) >= 11
    for path in found:
        read_config(path)


def presets() -> Iterator[Path]:
    for family in FAMILIES:
        yield from sorted((ROOT / "configs" / family).glob("*.yaml"))
