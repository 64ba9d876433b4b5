"""Questions about pictures: each picture opened once, each network asked once, and what is remembered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import eval.images
from eval import asking
from eval.asking import ask_all
from eval.config import EvaluationConfig
from eval.errors import EvalError, NotScored
from eval.images import GeneratedImage, Picture, read_image_set
from eval.questions import Answers, Ask, Question
from eval.table import read_scores

PROMPTS = ("one", "two", "three")


class Brightness(Question[float]):
    """The pictures' mean; black ones have none."""

    def __init__(self, spec: str = "brightness", rows_at_once: int = 2, keeps_pixels: bool = False) -> None:
        self.spec, self.rows_at_once, self.keeps_pixels = spec, rows_at_once, keeps_pixels
        self.batches: list[list[float]] = []
        self.freed = 0

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> float:
        return float(np.mean([np.asarray(image).mean() for image in images]))

    def answer(self, rows: Sequence[float]) -> list[bytes | NotScored]:
        self.batches.append(list(rows))
        return [NotScored("black") if row == 0 else f"{row:.6f}".encode() for row in rows]

    def free(self) -> None:
        self.freed += 1


class Doubled(Question[bytes]):
    """Twice the brightness, as it was answered."""

    reads_answers = True
    rows_at_once = 1

    def __init__(self, brightness: Brightness, cells: dict[str, bytes]) -> None:
        self.spec, self._brightness, self._answers = "doubled", brightness, Answers(cells)

    def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> bytes:
        return self._answers(self._brightness, *pictures)

    def answer(self, rows: Sequence[bytes]) -> list[bytes]:
        return [f"{2 * float(row):.6f}".encode() for row in rows]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each picture file was decoded."""
    count: Counter[str] = Counter()
    decode = eval.images.open_rgb

    def counted(path: Path) -> Image.Image:
        count[str(path)] += 1
        return decode(path)

    monkeypatch.setattr(eval.images, "open_rgb", counted)
    return count


@pytest.fixture
def pictures(tmp_path: Path, toys: Any) -> tuple[GeneratedImage, ...]:
    return read_image_set(toys.image_set(tmp_path / "set", toys.paint(1), PROMPTS))


def each(question: Question[Any], pictures: Sequence[GeneratedImage]) -> list[list[Ask]]:
    return [[Ask(question, (picture,))] for picture in pictures]


def test_batches_are_always_of_one_size_and_answers_find_their_picture(pictures: Sequence[GeneratedImage]) -> None:
    question = Brightness()
    answers = ask_all(each(question, pictures), {})
    assert [len(batch) for batch in question.batches] == [2, 2]
    for picture in pictures:
        assert float(answers(question, picture)) == pytest.approx(np.asarray(picture.load()).mean(), abs=1e-5)
    assert question.freed == 1


def test_what_is_known_is_not_asked_again_whoever_asks(
    pictures: Sequence[GeneratedImage], opened: Counter[str]
) -> None:
    cells: dict[str, bytes] = {}
    ask_all(each(Brightness(), pictures[:2]), cells)
    again = Brightness()
    answers = ask_all(each(again, pictures), cells)
    assert len(again.batches) == 1 and len(cells) == 3
    assert set(opened.values()) == {1} and len(opened) == 3
    assert answers(Brightness(), pictures[0]) == answers(again, pictures[0])


def test_two_metrics_with_one_question_ask_once(pictures: Sequence[GeneratedImage]) -> None:
    first, second = Brightness(), Brightness()
    ask_all([[Ask(first, (picture,)), Ask(second, (picture,))] for picture in pictures], {})
    assert len(first.batches) + len(second.batches) == 2


def test_full_pictures_do_not_wait_and_small_things_wait_within_bounds(
    pictures: Sequence[GeneratedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "KEPT_AT_MOST", 2)
    light, heavy = Brightness("light", rows_at_once=1, keeps_pixels=True), Brightness("heavy", rows_at_once=8)
    asks = [[Ask(light, (picture,)), Ask(heavy, (picture,))] for picture in pictures]
    answers = ask_all(asks, {})
    assert [len(batch) for batch in light.batches] == [1, 1, 1]
    assert len(heavy.batches) == 2
    assert len({answers(heavy, picture) for picture in pictures}) == 3


def test_a_picture_without_an_answer_is_remembered_and_a_lost_file_is_not(
    tmp_path: Path, toys: Any, opened: Counter[str]
) -> None:
    folder = toys.image_set(tmp_path / "black", lambda prompt, _: np.full((8, 8, 3), 9 * prompt, np.uint8), PROMPTS)
    (folder / "images/p2-0.png").rename(tmp_path / "lost.png")
    black, _, lost = read_image_set(folder)
    cells: dict[str, bytes] = {}
    for _ in range(2):
        question = Brightness()
        answers = ask_all(each(question, (black, lost)), cells)
        with pytest.raises(NotScored, match="black"):
            answers(question, black)
        with pytest.raises(NotScored, match="picture file missing"):
            answers(question, lost)
    assert opened == {str(black.path): 1, str(lost.path): 2}
    (tmp_path / "lost.png").rename(lost.path)
    assert float(ask_all(each(question, (lost,)), cells)(question, lost)) == 18


def test_weights_that_do_not_fit_stop_one_network_alone(pictures: Sequence[GeneratedImage]) -> None:
    class Broken(Brightness):
        def answer(self, rows: Sequence[float]) -> list[bytes | NotScored]:
            self.batches.append(list(rows))
            raise EvalError("weights.safetensors: not what it should be")

    broken, whole = Broken("broken"), Brightness("whole")
    answers = ask_all([[Ask(broken, (picture,)), Ask(whole, (picture,))] for picture in pictures], {})
    assert answers(whole, pictures[0])
    assert len(broken.batches) == 1
    with pytest.raises(EvalError, match="not what it should be"):
        answers(broken, pictures[0])


def test_a_failure_in_a_thread_is_the_callers(pictures: Sequence[GeneratedImage]) -> None:
    class Failing(Brightness):
        def prepare(self, pictures: Sequence[Picture], images: Sequence[Image.Image]) -> float:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        ask_all(each(Failing(), pictures), {})


def test_progress_counts_what_was_open(pictures: Sequence[GeneratedImage]) -> None:
    seen: list[tuple[int, int]] = []
    cells: dict[str, bytes] = {}
    ask_all(each(Brightness(), pictures), cells, lambda *counts: seen.append(counts))
    assert seen == [(2, 3), (3, 3)]
    ask_all(each(Brightness(), pictures), cells, lambda *counts: seen.append(counts))
    assert len(seen) == 2


def test_all_metrics_together_open_each_picture_once_and_a_grown_set_only_its_new_ones(
    evaluation: EvaluationConfig, score: Any, toys: Any, tmp_path: Path, opened: Counter[str]
) -> None:
    references = toys.dataset(tmp_path / "r", [toys.paint(3)(number, 0) for number in range(2)])
    cells: dict[str, bytes] = {}

    def run(name: str, prompts: Sequence[str]) -> list[Any]:
        sets = {
            side: toys.image_set(tmp_path / f"{name}-{side}", toys.paint(number), prompts)
            for number, side in enumerate(("base", "candidate"))
        }
        return list(read_scores(score(evaluation.metrics, tmp_path / name, references=references, cells=cells, **sets)))

    small = run("small", PROMPTS)
    assert set(opened.values()) == {1} and len(opened) == 2 + 2 * len(PROMPTS)
    opened.clear()
    grown = run("grown", (*PROMPTS, "four"))
    assert sorted(Path(path).name for path in opened) == ["p3-0.png", "p3-0.png"]
    assert [row for row in grown if row.prompt_id != "p3"] == small


def test_what_reads_answers_is_asked_after_them(pictures: tuple[GeneratedImage, ...], opened: Counter[str]) -> None:
    """Whatever order they are in; pictures are opened a second time, and never again."""
    cells: dict[str, bytes] = {}
    first = Brightness()
    second = Doubled(first, cells)
    units = [[Ask(second, (picture,)), Ask(first, (picture,))] for picture in pictures]
    answers = ask_all(units, cells)
    for picture in pictures:
        assert float(answers(second, picture)) == pytest.approx(2 * float(answers(first, picture)), abs=1e-5)
    assert set(opened.values()) == {2} and first.freed == 1
    ask_all(units, cells)
    assert set(opened.values()) == {2}


@pytest.mark.ci
def test_a_metric_of_another_package_is_found_by_its_entry_point(tmp_path: Path, run_python: Any) -> None:
    (tmp_path / "sharp.py").write_text(SHARP)
    info = tmp_path / "sharp-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sharp\nVersion: 1.0\n")

    def found(points: str) -> str:
        (info / "entry_points.txt").write_text(f"[sdxl_flows.scorers]\n{points}\n")
        code = (
            "from eval.config import EvaluationConfig as E\n"
            "print(E(prompts='p', metrics=[{'metric': 'sharpness', 'radius_px': 3}]).metrics[0].title)"
        )
        return str(run_python(code, tmp_path))

    assert found("sharpness = sharp:Sharpness") == "Sharpness"
    assert "sharpness = sharp:Nowhere: cannot be imported (AttributeError" in found("sharpness = sharp:Nowhere")
    assert "expected a subclass of eval.scorers.base.Metric" in found("sharpness = sharp:RADIUS")
    assert 'its field `metric` should be Literal["blur"]' in found("blur = sharp:Sharpness")
    assert "there is a metric of that name already" in found("ssim = sharp:Twin")


SHARP = """
from typing import ClassVar, Literal
from eval.scorers.base import Metric
RADIUS = 3
class Sharpness(Metric):
    title: ClassVar[str] = "Sharpness"
    direction: ClassVar[int] = 1
    unit: ClassVar[str] = "1"
    convention: ClassVar[str] = "our own"
    licence: ClassVar[str] = "none"
    decimals: ClassVar[int] = 2
    version: ClassVar[int] = 1
    metric: Literal["sharpness"]
    radius_px: int = 1
class Twin(Sharpness):
    metric: Literal["ssim"]
"""


@pytest.fixture
def run_python() -> Callable[[str, Path], str]:
    """Output of a program with a folder on its path."""
    import os
    import subprocess
    import sys

    def run(code: str, folder: Path) -> str:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        return (done.stdout or done.stderr).strip().splitlines()[-1]

    return run
