"""Votes: the file, whose side stands where, and how far voters agree."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from pydantic import ValidationError

from eval.blind import in_turn, left_of
from eval.errors import EvalError
from eval.voter_agreement import agreement
from eval.votes import Preferences, Typed, append_vote, read_votes
from tests.eval.casting import HOSTILE, A, B, C, slow_alpha, vote


def test_votes_come_back_as_they_were_cast(tmp_path: Path) -> None:
    typed = Typed(seed=1, steps=20, guidance_scale=5, base_model="0", candidate_model="1")
    cast = [vote(prompt=HOSTILE), vote("bob", "tie"), vote("ann", "candidate", prompt_id="", typed=typed)]
    for one in cast:
        append_vote(tmp_path / "new" / "votes.jsonl", one)
    assert read_votes(tmp_path / "new" / "votes.jsonl").votes == tuple(cast)
    assert (tmp_path / "new" / "votes.jsonl").read_bytes().count(b"\n") == 3


def test_many_writers_lose_no_vote(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: append_vote(path, vote(f"voter {number}")), range(40)))
    assert Counter(one.voter for one in read_votes(path).votes) == Counter(f"voter {number}" for number in range(40))


def test_a_file_cut_anywhere_reads_and_goes_on(tmp_path: Path) -> None:
    """After whichever byte the machine stopped: no whole vote is lost, and the next one makes the file whole."""
    for number in range(2):
        append_vote(tmp_path / "votes.jsonl", vote(f"voter {number}"))
    whole = (tmp_path / "votes.jsonl").read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole) + 1):
        cut = tmp_path / "cut.jsonl"
        cut.write_bytes(whole[:end])
        found = read_votes(cut)
        is_whole = end >= len(whole) - 1
        assert (len(found.votes), found.is_torn) == (2 if is_whole else 1, not is_whole and end > first)
        append_vote(cut, vote("next"))
        again = read_votes(cut)
        assert not again.is_torn and [one.voter for one in again.votes][len(found.votes) :] == ["next"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Invalid JSON"),
        ("", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ('{"voter": "ann"}', "time: Field required"),
        (vote().model_dump_json().replace('"base",', '"left",', 1), "left: Input should be"),
        (vote().model_dump_json().replace(A, B), "the same picture"),
        (vote().model_dump_json().replace(A, "../secret"), "base_picture: String should match"),
        (vote().model_dump_json().replace('"run"', '"who"'), "run: Field required"),
    ],
)
def test_any_other_line_is_refused_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    append_vote(tmp_path / "votes.jsonl", vote())
    good = (tmp_path / "votes.jsonl").read_text()
    (tmp_path / "votes.jsonl").write_text(f"{good}{line}\n{good}")
    with pytest.raises(EvalError, match=rf"votes\.jsonl line 2: not a vote \(.*{message}"):
        read_votes(tmp_path / "votes.jsonl")


@pytest.mark.parametrize("name", ["", "   ", "x" * 61, "two\nlines", "\x00"])
def test_a_voter_has_a_name_in_one_line(name: str) -> None:
    with pytest.raises(ValidationError, match="voter"):
        vote(name)


def test_a_later_vote_replaces_the_same_voter_s_earlier_one_whoever_is_called_base() -> None:
    preferences = Preferences([vote("ann", "base"), vote("bob", "tie"), vote("ann", "base", base=B, candidate=A)])
    assert sorted(preferences.shares(A, B)) == [0.0, 0.5]
    assert sorted(preferences.shares(B, A)) == [0.5, 1.0]
    assert preferences.shares(A, C) == []
    assert preferences.has_voted("bob", frozenset((B, A))) and not preferences.has_voted("bob", frozenset((B, C)))


def test_who_stands_left_is_fair_and_does_not_tell_who_drew_it() -> None:
    pairs = [frozenset((f"{number:064x}", f"{number + 1000:064x}")) for number in range(1000)]
    lower = sum(left_of("ann", pair) == min(pair) for pair in pairs)
    assert 440 < lower < 560, "four standard deviations of a fair coin"
    same = sum(left_of("ann", pair) == left_of("bob", pair) for pair in pairs)
    assert 440 < same < 560, "what one voter sees left says nothing of what another does"
    assert all(left_of("ann", pair) == left_of("ann", pair) in pair for pair in pairs)


def test_a_voter_s_order_is_their_own_and_stays_when_pairs_are_added() -> None:
    pairs = [frozenset((f"{number:064x}", f"{number + 1000:064x}")) for number in range(30)]
    ann = in_turn("ann", pairs, lambda pair: pair)
    assert ann == in_turn("ann", reversed(pairs), lambda pair: pair) != pairs
    assert ann != in_turn("bob", pairs, lambda pair: pair)
    fewer = in_turn("ann", pairs[:20], lambda pair: pair)
    assert [pair for pair in ann if pair in fewer] == fewer


ANSWERS = some.lists(some.lists(some.sampled_from(["base", "candidate", "tie"]), max_size=5), max_size=8)


@settings(max_examples=200, deadline=None)
@given(ANSWERS)
def test_agreement_equals_a_slow_reference(units: list[list[str]]) -> None:
    found, several = agreement(units), [unit for unit in units if len(unit) > 1]
    assert (found.units, found.unanimous) == (len(several), sum(len(set(unit)) == 1 for unit in several))
    expected = slow_alpha(units)
    assert found.alpha == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_agreement_is_that_of_krippendorff_s_own_example() -> None:
    """Krippendorff 2011, section C: four observers, twelve units, gaps; nominal alpha 0.743."""
    table = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[row[place] for row in table if row[place] != "."] for place in range(12)]
    found = agreement(units)
    assert (found.units, found.unanimous) == (11, 8)
    assert found.alpha == pytest.approx(0.743, abs=5e-4)
