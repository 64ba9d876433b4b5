"""Metrics of likeness can compare with a folder that people have chosen, whatever the dataset holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.scorers import SCORERS
from eval.table import read_scores
from tests.eval.conftest import PROMPTS


@pytest.mark.parametrize("name", ["clip_i", "dino"])
def test_a_folder_stands_in_for_the_instance_pictures(
    name: str, toys: Any, score: Any, toy_weights: Any, tmp_path: Path
) -> None:
    def values(out: str, references: Path | None, **settings: Any) -> list[float | None]:
        metric = SCORERS[name].model_validate({"metric": name, "model": str(toy_weights(name)["model"]), **settings})
        return [row.value for row in read_scores(score(metric, tmp_path / out, base=base, references=references))]

    base = toys.image_set(tmp_path / "base", toys.paint(1), PROMPTS[:3])
    pictures = [toys.paint(3)(number, 0) for number in range(3)]
    chosen = toys.dataset(tmp_path / "chosen", pictures)
    others = toys.dataset(tmp_path / "others", [toys.paint(9)(number, 0) for number in range(3)])
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number}.png")
    expected = values("a", chosen)
    assert values("b", others) != pytest.approx(expected)
    for out, references in (("c", others), ("d", None)):
        assert values(out, references, pictures=str(folder)) == pytest.approx(expected)
