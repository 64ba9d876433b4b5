"""Typed prompts in the page of `sdxl-flows view`: drawn as a run draws, blind until the vote."""

from __future__ import annotations

import io
import shutil
from typing import Any

import pytest
from PIL import Image

from eval.images import pixel_digest
from eval.votes import Vote, read_votes
from tasks.errors import ConfigError
from tests.flows.viewed import PROMPTS, World

pytestmark = pytest.mark.ci


def forget_pictures(world: World) -> None:
    shutil.rmtree(world.store.cells_path("images"))


def test_typed_prompts_are_drawn_bit_for_bit_as_image_sets_are(world: World) -> None:
    """With no picture remembered: the prompts and seeds of the run give the run's pictures."""
    forget_pictures(world)
    studio = world.studio()
    for base, candidate in zip(world.records("base"), world.records("candidate"), strict=True):
        _, drawn = studio.draw(base["prompt"], base["seed"], 2, studio.sampling.guidance_scale)
        assert drawn.shown.base.identity == base["image_sha256"]
        assert drawn.shown.candidate.identity == candidate["image_sha256"]
    assert len(studio._models) == 2


def drawing(**more: Any) -> dict[str, Any]:
    return {"voter": "ann", "prompt": "a person", "seed": 3, "steps": 2, "guidance_scale": 5.0} | more


def test_a_typed_prompt_is_shown_blind_and_revealed_after_the_vote(world: World) -> None:
    studio = world.studio()
    client = world.client(studio)
    found = client.post("/api/draw", json=drawing()).json()
    assert set(found) == {"id", "left", "right", "same"} and not found["same"]
    for side in ("left", "right"):
        picture = Image.open(io.BytesIO(client.get(f"/pictures/{found[side]}.png").content))
        assert pixel_digest(picture) == found[side] and not picture.info
    revealed = client.post("/api/cast-typed", json={"voter": "ann", "id": found["id"], "place": "right"}).json()
    [vote] = read_votes(world.votes).votes
    assert vote.typed is not None and vote.typed.seed == 3 and vote.prompt == "a person" and vote.prompt_id == ""
    pictures = {vote.base_picture: "base", vote.candidate_picture: "candidate"}
    assert {side: revealed[side] for side in ("left", "right")} == {s: pictures[found[s]] for s in ("left", "right")}
    assert vote.choice == revealed["right"]
    counted = revealed["results"]
    assert (counted["wins"], counted["losses"]) == ((1, 0) if vote.choice == "candidate" else (0, 1))
    assert counted["low"] is None, "one prompt has no interval"


def test_typed_results_are_of_the_last_votes_on_these_two_models(world: World) -> None:
    studio = world.studio()
    client = world.client(studio)
    for prompt, places in (("a person", ("left", "right")), ("a dog", ("tie",))):
        found = client.post("/api/draw", json=drawing(prompt=prompt)).json()
        for place in places:
            casting = {"voter": "ann", "id": found["id"], "place": place}
            results = client.post("/api/cast-typed", json=casting).json()["results"]
    last = read_votes(world.votes).votes[1]
    assert (results["votes"], results["ties"], results["prompts"]) == (2, 1, 2)
    assert results["share"] == pytest.approx((0.5 + (last.choice == "candidate")) / 2)
    assert results["low"] < results["share"] < results["high"]
    other = read_votes(world.votes).votes[0].model_dump()
    other["typed"]["candidate_model"] = "another"
    with world.votes.open("a") as file:
        file.write(Vote.model_validate(other).model_dump_json() + "\n")
    assert studio.results(world.viewing(studio)._booth)["votes"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "  "}, "prompt: expected words to draw"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"guidance_scale": "high"}, "guidance_scale"),
        ({"voter": ""}, "voter: expected a name"),
    ],
)
def test_what_cannot_be_drawn_is_refused(world: World, change: dict[str, Any], message: str) -> None:
    answer = world.client(world.studio()).post("/api/draw", json=drawing(**change))
    assert answer.status_code == 400 and message in answer.json()["error"]


def test_without_a_configuration_nothing_is_drawn(world: World) -> None:
    client = world.client()
    assert client.get("/api/start").json()["studio"] is None
    assert "--config CONFIG" in client.post("/api/draw", json=drawing()).json()["error"]


def test_pictures_from_elsewhere_draw_no_typed_prompt(world: World) -> None:
    folder = world.folder / "theirs"
    folder.mkdir()
    for prompt in PROMPTS:
        Image.new("RGB", (64, 64)).save(folder / f"{prompt['id']}.png")
    with pytest.raises(ConfigError, match="candidate: pictures, or several models, and no single one that draws"):
        world.studio(f"evaluation.candidate={folder}")
