"""What the documentation shows, runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from eval.scorers import OWN, MetricConfig
from eval.scorers.base import Metric

ROOT = Path(__file__).parents[1]


@pytest.mark.ci
def test_the_library_s_example_runs(tmp_path: Path) -> None:
    """In a folder of its own, where the paths it names are; with fewer steps than it shows."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL)
    lesser = {'"max_steps": 20': '"max_steps": 2', "steps=20": "steps=2", "replicates=2": "replicates=1"}
    for shown, fewer in lesser.items():
        assert shown in code
        code = code.replace(shown, fewer)
    for name in ("sdxl_core", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=600)
    made = {str(path.relative_to(tmp_path)) for path in (tmp_path / "library-demo").rglob("*") if path.is_file()}
    assert {
        "library-demo/lora/pytorch_lora_weights.safetensors",
        "library-demo/own/kohya_lora.safetensors",
        "library-demo/pictures/images/snow-0.png",
    } <= made


def test_every_page_is_linked() -> None:
    """From the README, or from a page that it links."""
    found, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in found or not page.is_file():
            continue
        found.add(page)
        links = re.findall(r"\]\(([^)#:]+\.md)[^)]*\)", page.read_text())
        waiting += [(page.parent / link).resolve() for link in links]
    assert {*(ROOT / "docs").rglob("*.md")} - found == set()


def test_every_metric_has_a_line_to_copy() -> None:
    page = (ROOT / "docs" / "evaluation" / "scorers.md").read_text()
    any_metric: TypeAdapter[Metric] = TypeAdapter(MetricConfig)
    # as a configuration's reader has it: places are absolute
    lines = [line.replace(": ./", ": /") for line in re.findall(r"`(\{metric: .*?\})`", page)]
    shown = [YAML(typ="safe").load(line) for line in lines]
    assert {any_metric.validate_python(line).metric for line in shown} == set(OWN)
