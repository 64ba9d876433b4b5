"""What the metric makes of votes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eval.choice import choose
from eval.compare import compare
from eval.config import EvaluationConfig, GalleryConfig
from eval.images import read_image_set
from eval.pairing import paired_scores
from eval.report import build_report
from eval.result import Comparison, JudgedMetric, read_comparison
from eval.score import METRICS_FILE
from eval.scored import read_scored
from eval.table import read_scores
from eval.votes import Typed, append_vote
from tests.eval.casting import HOSTILE, slow_alpha, vote


@pytest.fixture
def sets(tmp_path: Path, toys: Any) -> dict[str, Path]:
    """Twelve prompts, one hostile; the last two pictures are the same on both sides."""
    prompts = [HOSTILE, *(f"a person {number}" for number in range(11))]

    def candidate(prompt: int, replicate: int) -> Any:
        return toys.paint(1 if prompt > 9 else 2)(prompt, replicate)

    return {
        "base": toys.image_set(tmp_path / "base", toys.paint(1), prompts),
        "candidate": toys.image_set(tmp_path / "candidate", candidate, prompts),
    }


Cast = list[tuple[str, str, int]]
"""Voter, choice, number of the prompt."""


def cast_votes(path: Path, sets: dict[str, Path], cast: Cast) -> None:
    base, candidate = (read_image_set(sets[side]) for side in ("base", "candidate"))
    for voter, choice, place in cast:
        pair = {"base": base[place].identity, "candidate": candidate[place].identity}
        append_vote(path, vote(voter, choice, **pair, prompt_id=f"p{place}"))


def evaluation_with(path: Path, **more: Any) -> EvaluationConfig:
    metrics = [{"metric": "votes", "file": str(path), "primary": True}, {"metric": "saturation"}]
    return EvaluationConfig.model_validate({"prompts": "p", "resamples": 9999, "metrics": metrics, **more})


Compared = Any


@pytest.fixture
def compared(sets: dict[str, Path], score_all: Any, tmp_path: Path) -> Compared:
    def run(cast: Cast, **more: Any) -> Comparison:
        cast_votes(tmp_path / "votes.jsonl", sets, cast)
        evaluation = evaluation_with(tmp_path / "votes.jsonl", **more)
        scores = score_all(evaluation, sets["base"], sets["candidate"], None, tmp_path / "scored")
        compare(evaluation=evaluation, scores=scores, out=tmp_path / "comparison")
        return read_comparison(tmp_path / "comparison")

    return run


def of_votes(found: Comparison) -> JudgedMetric:
    (metric,) = found.judged
    return metric


def test_votes_are_paired_and_judged_like_any_score(compared: Compared, tmp_path: Path) -> None:
    """Nine for the candidate, one tie, two equal pictures: by prompt +1 nine times, 0 three times."""
    cast = [("ann", "candidate", place) for place in range(9)] + [("ann", "tie", 9)]
    found = compared(cast, gates=[{"metric": "votes", "require": "better"}])
    metric = of_votes(found)
    assert (metric.wins, metric.ties, metric.losses, metric.pairs, metric.prompts) == (9, 3, 0, 12, 12)
    assert metric.delta == pytest.approx(9 / 12) and metric.win_rate == pytest.approx(10.5 / 12)
    assert metric.base_mean + metric.candidate_mean == pytest.approx(1)
    assert metric.p == metric.p_holm == pytest.approx(2 / 2**9), "sign flips of nine"
    assert metric.delta_interval is not None and metric.delta_interval.method == "Agresti-Min"
    assert metric.outcome == "better" and found.verdict == "promote"
    digests = {row.image_digest for row in read_scores(tmp_path / "comparison") if row.metric_id == "votes"}
    assert all(len(digest.split("+")) == 2 for digest in digests)


def test_unanimous_votes_leave_an_interval(compared: Compared, sets: dict[str, Path]) -> None:
    """Ten of ten is no certainty."""
    for folder in sets.values():
        records = (folder / "records.jsonl").read_text().splitlines(keepends=True)
        (folder / "records.jsonl").write_text("".join(records[:10]))
    metric = of_votes(compared([("ann", "candidate", place) for place in range(10)]))
    assert metric.delta == 1 and metric.delta_interval is not None
    assert metric.delta_interval.low < 0.95


def test_choosing_the_other_side_everywhere_turns_the_result_round(compared: Compared) -> None:
    cast = [("ann", "candidate" if place < 7 else "base", place) for place in range(10)]
    here = of_votes(compared(cast))
    back = {"candidate": "base", "base": "candidate"}
    there = of_votes(compared([(voter, back[choice], place) for voter, choice, place in cast]))
    assert there.delta == pytest.approx(-here.delta) and there.p == here.p
    assert (there.wins, there.losses) == (here.losses, here.wins)


def test_what_is_not_voted_on_is_missing_and_does_not_fill_the_gallery(
    compared: Compared, sets: dict[str, Path], tmp_path: Path
) -> None:
    found = compared([("ann", "candidate", place) for place in range(6)])
    assert of_votes(found).pairs == 8, "and two equal pictures"
    reasons = {(item.model_id, item.reason) for item in found.health.unscored}
    assert reasons == {(side, "nobody has voted on this pair") for side in ("base", "candidate")}
    images = {side: read_image_set(sets[side]) for side in sets}
    paired = {"votes": paired_scores(read_scores(tmp_path / "comparison"), "votes", {})}
    cards = choose(images["base"], images["candidate"], found, paired, GalleryConfig())
    assert not [card for card in cards if "problems" in card.places]
    assert len([card for card in cards if "wins" in card.places]) == 6


def test_typed_votes_and_those_on_other_pictures_do_not_count(
    compared: Compared, sets: dict[str, Path], tmp_path: Path
) -> None:
    pictures = read_image_set(sets["base"])[0].identity, read_image_set(sets["candidate"])[0].identity
    typed = Typed(seed=1, steps=20, guidance_scale=5, base_model="0", candidate_model="1")
    append_vote(tmp_path / "votes.jsonl", vote("eve", "base", *pictures, prompt_id="", typed=typed))
    append_vote(tmp_path / "votes.jsonl", vote("eve", "base"))
    metric = of_votes(compared([("ann", "candidate", place) for place in range(10)]))
    assert (metric.wins, metric.ties, metric.losses) == (10, 2, 0)
    assert metric.facts.remark.startswith(
        "10 votes by 1 voter on 10 of the 10 pairs that differ; no pair has votes of two"
    )


def test_reports_tell_how_far_voters_agree(
    compared: Compared, sets: dict[str, Path], tmp_path: Path, toys: Any
) -> None:
    """Two voters on four pairs, of which they see three alike; alpha by the slow reference."""
    answers = [("candidate", "candidate"), ("base", "base"), ("tie", "tie"), ("base", "candidate")]
    cast = [
        (voter, choice, place) for place, both in enumerate(answers) for voter, choice in zip("ab", both, strict=True)
    ]
    alpha = slow_alpha([list(both) for both in answers])
    found = compared([*cast, ("a", "base", 5)])
    words = (
        "9 votes by 2 voters on 5 of the 10 pairs that differ; all agree on 3 of the 4 that two or more judged, "
        f"Krippendorff's alpha {alpha:.2f}"
    )
    assert of_votes(found).facts.remark == words
    words_around = {"title": "t", "command": "c", "config_yaml": "", "provenance": {}, "training": None}
    build_report(comparison=tmp_path / "comparison", **sets, references=None, **words_around, out=tmp_path / "report")
    assert words.replace("'", "&#39;") in (tmp_path / "report/report.html").read_text()
    assert "9 votes by 2 voters" in (tmp_path / "report/summary.md").read_text()


def test_agreement_goes_by_pictures_whoever_was_called_base_then(
    compared: Compared, sets: dict[str, Path], tmp_path: Path
) -> None:
    """Bob voted when base and candidate were named the other way round, for the same pictures as Ann."""
    cast_votes(tmp_path / "votes.jsonl", {"base": sets["candidate"], "candidate": sets["base"]}, [("bob", "base", 0)])
    cast_votes(tmp_path / "votes.jsonl", sets, [("bob", "base", place) for place in range(1, 6)])
    found = compared([("ann", "candidate", 0), *(("ann", "base", place) for place in range(1, 6))])
    assert "all agree on 6 of the 6 that two or more judged, Krippendorff's alpha 1.00" in of_votes(found).facts.remark


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "file: no such file or folder: votes.jsonl"),
        ("", "votes.jsonl holds no vote yet; people; `sdxl-flows view --votes FILE` asks them"),
        (vote().model_dump_json() + "\n", "no pair of pictures is scored on both sides"),
        ("nonsense\n", "votes.jsonl line 1: not a vote"),
    ],
)
def test_without_votes_the_metric_is_not_run_and_says_why(
    tmp_path: Path, toys: Any, score_all: Any, text: str | None, reason: str
) -> None:
    sets = [toys.image_set(tmp_path / f"set{seed}", toys.paint(seed)) for seed in (1, 2)]
    if text is not None:
        (tmp_path / "votes.jsonl").write_text(text)
    evaluation = evaluation_with(tmp_path / "votes.jsonl")
    scores = score_all(evaluation, *sets, None, tmp_path / "scored")
    compare(evaluation=evaluation, scores=scores, out=tmp_path / "comparison")
    found = read_comparison(tmp_path / "comparison")
    (metric,) = found.not_run
    assert metric.reason.startswith(reason) and found.outcome == "not_judged"


def test_a_torn_line_is_said(sets: dict[str, Path], compared: Compared, tmp_path: Path) -> None:
    cast_votes(tmp_path / "votes.jsonl", sets, [("ann", "base", place) for place in range(10)])
    with (tmp_path / "votes.jsonl").open("ab") as file:
        file.write(b'{"time": "2026')
    assert of_votes(compared([])).facts.remark.endswith("; the file's last line is torn and left out")


def test_a_votes_file_is_a_local_file() -> None:
    with pytest.raises(ValidationError, match="expected a local file"):
        evaluation_with(Path("votes.jsonl"))


def test_remarks_are_of_metrics_that_make_one(sets: dict[str, Path], compared: Compared, tmp_path: Path) -> None:
    compared([("ann", "base", place) for place in range(10)])
    found = read_scored(evaluation_with(tmp_path / "votes.jsonl"), tmp_path / "scored" / "scores")
    assert found.facts["votes"].remark and not found.facts["saturation"].remark
    described = json.loads((tmp_path / "scored" / "scores" / METRICS_FILE).read_text())
    assert ["remark" in one for one in described] == [True, False]
