"""The report's training section: curves, what they say in words, and the best step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.report import build_report
from tests.eval.pages import Page
from tests.eval.test_report import inputs

__all__ = ["inputs"]  # a fixture


def test_steps_that_were_left_out_are_counted(inputs: dict[str, Any], tmp_path: Path) -> None:
    (inputs["training"] / "history.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n')
    (inputs["training"] / "training.json").write_text('{"skipped_steps": 1}')
    build_report(**inputs, out=tmp_path)
    assert "1 of 2 steps were left out" in (tmp_path / "report.html").read_text()


def watched(folder: Path, held_out: list[float], exported: int, weighted: bool = False) -> Path:
    """A training run whose own loss falls, validated before the first and after every fifth step."""
    (folder / "validation").mkdir(parents=True)
    rows: list[dict[str, float | None]] = [{"step": 0, "validation/loss": held_out[0], "validation/t100": held_out[0]}]
    for step in range(1, 5 * len(held_out) - 4):
        rows.append({"step": step, "loss": 2 / step, "unweighted": 1 / step, f"timesteps/{step % 3}00-199": 1 / step})
        rows[-1] |= {"learning_rate": 1e-4, "learning_rate/text_encoder": 1e-5, "implicit_accuracy": 0.5}
        if step % 5 == 0:
            rows[-1] |= {"validation/loss": held_out[step // 5], "validation/t100": held_out[step // 5]}
    measured = [{"step": 5 * i, "loss": loss} for i, loss in enumerate(held_out)]
    best = min(measured[1:], key=lambda each: each["loss"])
    facts = {"pictures": 2, "weighted": weighted, "base": held_out[0], "best": best, "last": measured[-1]}
    document = {"exported": {"step": exported, "why": "so it was asked"}, "validation_loss": facts}
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "training.json").write_text(json.dumps(document))
    return folder


READINGS: dict[str, tuple[list[float], int, str]] = {
    "falling": ([1.0, 0.8, 0.6], 10, "It was still falling when it was last measured"),
    "over-fitted": (
        [1.0, 0.5, 0.9],
        10,
        "rose to 0.9 (+80.0 %) at step 10, while the training loss fell from 0.2 to 0.1",
    ),
    "over-fitted, best": ([1.0, 0.5, 0.9], 5, "a sign of over-fitting, from before which the candidate is."),
    "useless": ([1.0, 1.5, 1.2], 10, "No step was better than the base"),
}


@pytest.mark.ci
@pytest.mark.parametrize("case", READINGS)
def test_the_curves_are_read_aloud(inputs: dict[str, Any], tmp_path: Path, case: str) -> None:
    held_out, exported, sentence = READINGS[case]
    training = watched(tmp_path / "training", held_out, exported)
    build_report(**{**inputs, "training": training}, out=tmp_path / "out")
    text = "".join(Page((tmp_path / "out/report.html").read_text()).text)
    assert f"The candidate has the weights of step {exported}: so it was asked." in text
    best = min(held_out[1:])
    change = f"{100 * (best - 1):+.1f} %".replace("-", "\N{MINUS SIGN}")
    assert f"The loss on 2 held-out pictures was lowest at step {5 * held_out.index(best)}: {best:.4g}" in text
    assert f"against 1 of the base ({change})" in text and sentence in text


@pytest.mark.ci
def test_every_figure_of_a_training_has_its_panel(inputs: dict[str, Any], tmp_path: Path) -> None:
    """And its labels: the base's line, the lowest point, both rates, what was left out, and what a method adds."""
    training = watched(tmp_path / "training", [1.0, 0.5, 0.9], 10)
    lines = (training / "history.jsonl").read_text().replace('"loss": 0.5,', '"loss": null,')
    (training / "history.jsonl").write_text(lines)
    build_report(**{**inputs, "training": training}, out=tmp_path / "out")
    text = (tmp_path / "out/report.html").read_text()
    shown = " ".join(Page(text[text.index('<section id="training">') :]).text)
    for label in (
        "loss, held out and trained on",
        "base, held out",
        "lowest, step 5",
        "left out",
        "held-out loss against the base",
        "training loss by timestep",
        "first third",
        "implicit accuracy",
        "text_encoder",
    ):
        assert label in shown, label
    assert "validation/" not in shown and "timesteps/" not in shown
    assert build_report(**{**inputs, "training": training}, out=tmp_path / "again")
    assert (tmp_path / "again/report.html").read_bytes() == (tmp_path / "out/report.html").read_bytes()


def scored(folder: Path, values: list[float | None], direction: int, counts: dict[int, int] | None = None) -> Path:
    """A training run whose validation pictures were scored before the first and after every fifth step."""
    training = watched(folder, [1.0] * len(values), 10)
    rows = [json.loads(line) for line in (training / "history.jsonl").read_text().splitlines()]
    measured = dict(zip(range(0, 5 * len(values), 5), values, strict=True))
    for row in rows:
        if row["step"] in measured:
            row["validation/face"] = measured[row["step"]]
        if row["step"] in (counts or {}):
            row["validation/face/scored"] = float((counts or {})[row["step"]])
    (training / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [(direction * value, -step, value) for step, value in measured.items() if step and value is not None]
    best = {"step": -max(own)[1], "value": max(own)[2]} if own and direction else None
    facts = {"title": "Face <i>", "unit": "cosine", "decimals": 2, "direction": direction, "with_base": False}
    facts |= {"pictures": 8, "base": values[0], "best": best, "last": None}
    document = json.loads((training / "training.json").read_text()) | {"scores": {"face": facts}}
    (training / "training.json").write_text(json.dumps(document))
    return training


SCORED: dict[str, tuple[list[float | None], int, dict[int, int], str]] = {
    "better": (
        [0.5, 0.7, 0.6],
        1,
        {},
        "Face <i> of 8 validation pictures was highest at step 5: 0.70, against 0.50 of the base. Validation pictures",
    ),
    "some without": ([0.5, 0.7, 0.6], 1, {5: 3, 10: 2}, "of the base. Only 3 of them had a score there. Validation"),
    "worse": ([0.5, 0.4, 0.3], 1, {}, "highest at step 5: 0.40, against 0.50 of the base. No step was better than"),
    "lower is better": ([0.5, 0.4, 0.3], -1, {}, "was lowest at step 10: 0.30, against 0.50 of the base. Validation"),
    "none": ([None, None, None], 1, {}, "No validation picture of any step has a Face <i>."),
    "describes": ([0.5, 0.4, 0.3], 0, {}, "Validation pictures are few: their scores show a direction"),
}


@pytest.mark.ci
@pytest.mark.parametrize("case", SCORED)
def test_scores_of_validation_pictures_are_drawn_and_read_aloud(
    inputs: dict[str, Any], tmp_path: Path, case: str
) -> None:
    values, direction, counts, sentence = SCORED[case]
    training = scored(tmp_path / "training", values, direction, counts)
    build_report(**{**inputs, "training": training}, out=tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text()
    text = " ".join(" ".join(Page(page[page.index('<section id="training">') :]).text).split())
    assert sentence in text
    assert "Face <i>, validation pictures" in text and "validation/" not in text
    assert ("base, mean" in text) == (values[0] is not None)


def preferring_run(folder: Path, *, forgets: bool, by_heart: bool) -> Path:
    """A training from pairs: in the end errors are 10 % off the reference, above it for a model that forgets."""
    folder.mkdir(parents=True)
    rows: list[dict[str, float]] = [{"step": 0, "validation/loss": 0.69, "validation/implicit_accuracy": 0.5}]
    for step in range(1, 61):
        wave = 0.001 * (step % 3)
        up = step / 600
        rows.append({"step": step, "loss": 0.69 - up, "implicit_accuracy": 0.95, "margin": up})
        rows[-1] |= {"preferred/error": 0.2 * (1 + (up if forgets else -up)) + wave, "preferred/reference": 0.2 + wave}
        rows[-1] |= {"rejected/error": 0.2 * (1 + 2 * up) + wave, "rejected/reference": 0.2 + wave}
        rows[-1] |= {"timesteps/implicit_accuracy/500-599": 0.9, "timesteps/margin/500-599": 0.1}
        if step % 30 == 0:
            accuracy = 0.55 if by_heart else 0.9
            rows[-1] |= {"validation/loss": 0.6, "validation/t500": 0.6, "validation/implicit_accuracy": accuracy}
            rows[-1] |= {"validation/implicit_accuracy/t500": accuracy, "validation/margin": 0.01}
    last = {"step": 60, "loss": 0.6}
    facts = {"pairs": 7, "weighted": True, "base": 0.69, "best": {"step": 30, "loss": 0.6}, "last": last}
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "training.json").write_text(json.dumps({"validation_loss": facts}))
    return folder


@pytest.mark.ci
@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("by_heart", [False, True])
def test_a_training_from_preferences_is_read_aloud(
    inputs: dict[str, Any], tmp_path: Path, forgets: bool, by_heart: bool
) -> None:
    training = preferring_run(tmp_path / "training", forgets=forgets, by_heart=by_heart)
    build_report(**{**inputs, "training": training}, out=tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text()
    text = "".join(Page(page).text)
    assert ("Both likelihoods fell" in text) == forgets
    assert ("Pairs were learned by heart: 95% of the trained ones" in text) == by_heart
    held_out = "55%" if by_heart else "90%"
    assert f"prefer what was preferred in {held_out}" in text and "on 7 held-out pairs" in text
    said = json.loads((tmp_path / "out/report.json").read_text())["overfitting"]["findings"]
    assert len([each for each in said if "likelihoods" in each or "by heart" in each]) == forgets + by_heart
    for title in ("implicit accuracy", "error against the reference", "margin", "implicit accuracy by timestep"):
        assert f"{title}<" in page or f"<!-- {title} -->" in page, title
    assert "timesteps/" not in page and "preferred/error" not in page
