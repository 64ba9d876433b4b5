"""Storyboards in the report: whole, in order, base above candidate; and a page without them is as it was."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from eval.compare import compare
from eval.config import EvaluationConfig
from eval.images import read_image_set
from eval.report import build_report
from eval.storyboards import MOST, strips
from tests.eval.pages import HOSTILE, Page

BOARDS = {"b": 3, "a": 2}
SIDES = ("base", "candidate")
ROWS = (*SIDES, "caption")


def image_set(toys: Any, folder: Path, seed: int, boards: dict[str, int], replicates: int = 2) -> Path:
    """Frames are recorded last to first, after one prompt that is no frame."""
    frames = [(board, number) for board, count in boards.items() for number in range(count, 0, -1)]
    prompts = ["alone", *(f"{HOSTILE[0]} {board} {number}" for board, number in frames)]
    toys.image_set(folder, toys.paint(seed), prompts, replicates=replicates)
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if (place := int(line["prompt_id"][1:]) - 1) >= 0:
            line |= {"storyboard": frames[place][0], "frame": frames[place][1], "settings": {"steps": 3}}
            line |= {"negative_prompt": "snow", "seed": len(frames[place][0])}
    toys.lines(path, lines)
    return folder


@pytest.fixture
def sets(toys: Any, tmp_path: Path) -> tuple[Path, Path]:
    base, candidate = (image_set(toys, tmp_path / name, place, BOARDS) for place, name in enumerate(SIDES))
    (candidate / "images/p2-0.png").unlink()  # b, frame 2
    return base, candidate


def test_a_strip_is_a_board_in_the_order_of_its_frames(sets: tuple[Path, Path]) -> None:
    base, candidate = (read_image_set(folder) for folder in sets)
    found = strips(base, candidate, 512)
    assert [(strip.name, [frame.number for frame in strip.frames]) for strip in found.shown] == [
        ("b", [1, 2, 3]),
        ("a", [1, 2]),
    ]
    digests = {(image.storyboard, image.frame, image.replicate): image.identity for image in base}
    for strip in found.shown:
        for frame in strip.frames:
            assert frame.base is not None and frame.base.digest == digests[strip.name, frame.number, 0]
            assert (frame.candidate is None) == ((strip.name, frame.number) == ("b", 2))
    assert found.further == 0
    assert base[-1].own_settings == {"negative_prompt": "snow", "steps": 3} and base[0].own_settings == {}


def test_many_boards_are_cut_and_counted(toys: Any, tmp_path: Path) -> None:
    base = read_image_set(image_set(toys, tmp_path / "many", 0, {f"x{n}": 1 for n in range(MOST + 3)}, replicates=1))
    found = strips(base, base, 512)
    assert (len(found.shown), found.further) == (MOST, 3)


def report(sets: tuple[Path, Path], evaluation: EvaluationConfig, score: Any, out: Path) -> str:
    metrics = tuple(metric for metric in evaluation.metrics if metric.id == "ssim")
    fewer = evaluation.model_copy(update={"metrics": metrics})
    compare(evaluation=fewer, scores=score(metrics, out / "scores", base=sets[0], candidate=sets[1]), out=out / "found")
    build_report(
        title="boards",
        comparison=out / "found",
        base=sets[0],
        candidate=sets[1],
        references=None,
        training=None,
        provenance={},
        command="",
        config_yaml="",
        out=out / "report",
    )
    return (out / "report" / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_base_above_candidate(
    sets: tuple[Path, Path], evaluation: EvaluationConfig, score: Any, tmp_path: Path
) -> None:
    text = report(sets, evaluation, score, tmp_path)
    section = text[text.index('<section id="storyboards">') : text.index('<section id="compared">')]
    page = Page(section)
    assert page.tags["img"] == 2 * sum(BOARDS.values()) - 1 and "no picture" in section
    assert page.tags["script"] == 0 and HOSTILE[0] in "".join(page.text)
    alts = [alt.partition(":")[0] for alt in page.values("alt")]
    assert alts[:5] == ["base, frame 1", "candidate, frame 1", "base, frame 2", "base, frame 3", "candidate, frame 3"]
    columns = re.findall(r'class="(base|candidate|caption)" style="grid-column:(\d)"', section)
    expected = [(who, str(column)) for count in BOARDS.values() for column in range(2, count + 2) for who in ROWS]
    assert columns == expected
    assert ".board .base { grid-row: 1; }" in text and ".board .candidate { grid-row: 2; }" in text
    assert 'href="#storyboards"' in text
    facts = json.loads((tmp_path / "report" / "report.json").read_text())["image_sets"]["base"]["pictures"]
    assert facts["drawn by settings of their own"] == 2 * sum(BOARDS.values())


def test_a_page_without_boards_has_nothing_of_them(
    toys: Any, evaluation: EvaluationConfig, score: Any, tmp_path: Path
) -> None:
    sets = tuple(toys.image_set(tmp_path / name, toys.paint(seed)) for seed, name in enumerate(SIDES))
    text = report((sets[0], sets[1]), evaluation, score, tmp_path)
    assert "storyboard" not in text.lower() and ".board" not in text
