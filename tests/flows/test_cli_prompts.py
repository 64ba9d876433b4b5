"""`sdxl-flows prompts`: what a set expands to, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.conftest import REPOSITORY, Cli

OURS = REPOSITORY / "configs" / "prompts"
HEAVY = ("torch", "diffusers", "transformers", "datasets", "prefect", "pandas", "pyarrow", "matplotlib", "numpy", "PIL")
TELL_HEAVY = f"""
import atexit
atexit.register(lambda: print("loaded:", [name for name in {HEAVY!r} if name in sys.modules]))
"""


def test_a_set_is_counted_by_category_with_its_first_prompts(cli: Cli) -> None:
    done = cli("prompts", str(OURS / "dev.jsonl"), "--lines", "1", before=TELL_HEAVY)
    lines = done.stdout.splitlines()
    assert lines[-1] == "loaded: []" and lines[-2] == "200 prompts"
    assert lines[0] == "people: 20" and lines[1].split()[0] == "people-01"
    assert sum(int(line.rpartition(": ")[2]) for line in lines[:-2:2]) == 200


def test_settings_and_choice_are_shown(cli: Cli) -> None:
    done = cli("prompts", str(OURS / "storyboards.yaml"), "--category", "orchard", "--lines", "9")
    assert done.stdout.count("[settings {'width_px': 1216, 'height_px': 832}]") == 5
    assert done.stdout.splitlines()[-1] == "5 prompts"
    done = cli("prompts", str(OURS / "portrait.jsonl"), "--subject", "a sks person", "--sample", "7", "--seed", "3")
    assert done.stdout.splitlines()[-1] == "7 prompts" and "a sks person" in done.stdout


@pytest.mark.ci
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "expected a local file of format own, got 'nowhere.jsonl'"),
        (["p.txt", "--format", "prati"], "format: expected one of own"),
        (["p.txt", "--sample", "2"], "sample: expected at most 1"),
        (["p.txt"], "set evaluation.subject"),
    ],
)
def test_mistakes_end_in_one_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a photo of {subject}\n")
    done = cli("prompts", *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
