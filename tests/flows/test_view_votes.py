"""Blind votes in the page of `sdxl-flows view`, and what becomes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eval.votes import read_votes
from tasks.errors import ConfigError
from tasks.manifest import Ref
from tasks.stage import Call, materialise
from tests.flows.viewed import PROMPTS, World, only_report, vote_all


def test_a_vote_is_about_the_picture_that_stood_there(world: World) -> None:
    """Whoever it is of; and what the page is sent names no side."""
    ballots = vote_all(world.client(), "ann", "left")
    assert [(ballot["done"], ballot["total"]) for ballot in ballots] == [(done, 3) for done in range(4)]
    votes, sides = read_votes(world.votes).votes, world.sides()
    for ballot, vote in zip(ballots, votes, strict=False):
        pair = ballot["pair"]
        assert set(pair) == {"id", "prompt", "left", "right"}
        assert vote.preferred == pair["left"] and vote.left == vote.choice == sides[pair["left"]]
        assert not {"base", "candidate"} & {*pair.values()}
    assert {vote.prompt_id for vote in votes} == {"beach", "night", "odd"}


def test_voters_have_orders_of_their_own_and_go_on_where_they_were(world: World) -> None:
    vote_all(world.client(), "ann", "tie")
    again = vote_all(world.client(), " ann ", "tie")
    assert [ballot["done"] for ballot in again] == [3], "nothing is asked twice, of whoever types the name again"
    first = {vote_all(world.client(), f"voter {number}", "right")[0]["pair"]["prompt"] for number in range(12)}
    assert first == {prompt["prompt"] for prompt in PROMPTS}


def test_a_vote_can_be_changed(world: World) -> None:
    client = world.client()
    pair = vote_all(client, "ann", "left")[0]["pair"]
    client.post("/api/cast", json={"report": only_report(client), "voter": "ann", "pair": pair["id"], "place": "tie"})
    votes = read_votes(world.votes).votes
    assert len(votes) == 4 and votes[-1].pair == votes[0].pair and votes[-1].choice == "tie"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"voter": "  "}, 400),
        ({"voter": "a\nb"}, 400),
        ({"place": "base"}, 400),
        ({"pair": "none"}, 400),
        ({"report": "none"}, 400),
        ({"more": 1}, 400),
    ],
)
def test_what_is_no_vote_is_refused_and_not_written(world: World, change: dict[str, Any], status: int) -> None:
    client = world.client()
    id = only_report(client)
    pair = client.post("/api/ask", json={"report": id, "voter": "ann"}).json()["pair"]["id"]
    casting = {"report": id, "voter": "ann", "pair": pair, "place": "left"}
    answer = client.post("/api/cast", json=casting | change)
    assert answer.status_code == status and answer.json()["error"]
    assert not world.votes.exists()


def test_new_votes_score_votes_again_and_draw_nothing(world: World) -> None:
    vote_all(world.client(), "ann", "left")
    assert world.would_run() == ["scores", "comparison", "report"]
    report = world.run()["report"]
    facts = json.loads((world.store.path(report) / "report.json").read_text())["comparison"]["judged"]
    [votes] = [metric for metric in facts if metric["facts"]["name"] == "votes"]
    chosen = [vote.choice for vote in read_votes(world.votes).votes]
    assert (votes["wins"], votes["losses"]) == (chosen.count("candidate"), chosen.count("base"))
    assert "3 votes by 1 voter on 3 of the 3 pairs that differ" in votes["facts"]["remark"]
    assert world.would_run() == []
    vote_all(world.client(), "bob", "tie")
    assert world.would_run() == ["scores", "comparison", "report"]


def test_votes_that_come_while_scores_are_made_are_not_passed_off_as_earlier_ones(world: World) -> None:
    vote_all(world.client(), "ann", "left")

    def meanwhile(call: Call) -> Ref:
        if call.stage.kind == "scores":
            vote_all(world.client(), "bob", "right")
        return materialise(call, world.store, "cpu")

    with pytest.raises(ConfigError, match=r"votes: .*votes\.jsonl was changed while this ran; run it again"):
        world._wire(meanwhile)
