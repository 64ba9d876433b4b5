"""The page of `sdxl-flows view`: reports, galleries, blind votes and typed prompts, on the shipped miniature."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from eval.images import pixel_digest
from eval.votes import Vote, read_votes
from flows.viewer.app import PAGE, make_app
from flows.wiring import LEARNT, evaluate, finetune
from tasks.errors import ConfigError
from tasks.experiment import prepare_experiment
from tasks.manifest import Ref
from tasks.plan import Expecting, Planner
from tasks.published import published_reports
from tasks.runs import Recorder, publish
from tasks.stage import Call, materialise
from tasks.store import ArtifactStore
from tasks.studio import Studio, Watching
from tasks.viewing import Viewing
from tasks.yaml_config import read_config
from tests.flows.conftest import REPOSITORY, Cli
from tests.flows.test_pipeline import WEIGHTS, write_pictures

HOSTILE = "<img src=x onerror=alert(1)> {{ 7 * 7 }}"
CONFIG = f"""\
name: voted
model: {{base: {WEIGHTS}/sdxl}}
dataset: {{path: ./pictures}}
transform: {{resolution_px: 64}}
training:
  adapter: {{kind: lora, rank: 2}}
  learning_rate: 5e-2
  max_steps: 2
sampling: {{steps: 2, width_px: 64, height_px: 64}}
evaluation:
  prompts: ./prompts.jsonl
  metrics:
    - {{metric: saturation}}
    - {{metric: blank}}
    - {{metric: ssim}}
    - {{metric: votes, file: ./votes.jsonl, primary: true}}
"""
PROMPTS = [
    {"id": "beach", "prompt": "a photo of kestrel person on a beach", "category": "place"},
    {"id": "night", "prompt": "a photo of kestrel person at night", "category": "time"},
    {"id": "odd", "prompt": HOSTILE},
]


class World:
    """An experiment in a folder, run without Prefect, and what one sees of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, ArtifactStore(folder / "store")
        self.votes = folder / "votes.jsonl"

    def run(self) -> dict[str, Ref]:
        recorder = Recorder(lambda call: materialise(call, self.store, "cpu"))
        self._wire(recorder)
        publish(self.store, recorder.refs, self.folder / "runs" / "voted")
        return recorder.refs

    def would_run(self) -> list[str]:
        planner = Planner(self.store)
        self._wire(planner)
        return [stage.label for stage in planner.stages if stage.action == "run"]

    def _wire(self, run: Any) -> None:
        with contextlib.chdir(self.folder):
            finetune(prepare_experiment(read_config(self.folder / "voted.yaml"), self.store, "test"), run)

    def studio(self, *overrides: str) -> Studio:
        calls: dict[str, Call] = {}
        with contextlib.chdir(self.folder):
            experiment = prepare_experiment(read_config(self.folder / "voted.yaml", overrides), self.store, "test")
        evaluate(experiment, Watching(Expecting(LEARNT, self.store, Planner(self.store)), self.store, calls))
        return Studio(experiment.name, calls, self.store, "cpu")

    def viewing(self, studio: Studio | None = None) -> Viewing:
        return Viewing(self.store, self.folder / "runs", self.votes, studio)

    def client(self, studio: Studio | None = None) -> TestClient:
        return TestClient(make_app(self.viewing(studio)), base_url="http://127.0.0.1")

    def records(self, role: str) -> list[dict[str, Any]]:
        """Of the run's pictures."""
        [report] = self.store.manifests("report")
        text = (self.store.path(report.recipe.inputs[role]) / "records.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def sides(self) -> dict[str, str]:
        """Digest of a picture -> whose it is."""
        return {line["image_sha256"]: role for role in ("base", "candidate") for line in self.records(role)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, without any vote; tests work on copies."""
    folder = tmp_path_factory.mktemp("view")
    write_pictures(folder / "pictures", 3)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    (folder / "voted.yaml").write_text(CONFIG)
    World(folder).run()
    return folder


@pytest.fixture
def world(finished: Path, tmp_path: Path) -> World:
    shutil.copytree(finished, tmp_path / "copy")
    return World(tmp_path / "copy")


def only_report(client: httpx.Client) -> str:
    [report] = client.get("/api/start").json()["reports"]
    assert report["name"] == "voted" and report["title"] == "voted"
    return str(report["id"])


# --- reports and galleries


def test_a_report_opens_in_a_sandbox_from_its_own_folder_alone(world: World) -> None:
    client = world.client()
    id = only_report(client)
    answer = client.get(f"/reports/{id}/report.html")
    assert answer.content == (world.folder / "runs/voted/report.html").read_bytes()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts") and "allow-same-origin" not in policy
    (world.folder / "runs/secret.json").write_text("{}")
    (world.folder / "runs/voted/link.json").symlink_to("../secret.json")
    for name in ("..%2fsecret.json", "link.json", "pytorch_lora_weights.safetensors", "none.html", "%2fetc%2fpasswd"):
        assert client.get(f"/reports/{id}/{name}").status_code == 404, name
    assert client.get("/reports/0000/report.html").status_code == 400


def test_the_gallery_has_every_pair_with_what_metrics_say(world: World) -> None:
    client = world.client()
    found = client.get(f"/api/gallery/{only_report(client)}").json()
    assert found["metrics"] == {"blank": "Blank pictures"}, "others describe, or were not run"
    expected = [
        (base["prompt"], base["category"], base["image_sha256"], candidate["image_sha256"])
        for base, candidate in zip(world.records("base"), world.records("candidate"), strict=True)
    ]
    names = ("prompt", "category", "base", "candidate")
    assert [tuple(pair[name] for name in names) for pair in found["pairs"]] == expected
    assert all({badge["text"].split()[0] for badge in pair["badges"]} == {"Blank", "SSIM"} for pair in found["pairs"])


def test_pictures_come_without_what_their_files_say_of_who_drew_them(world: World) -> None:
    client = world.client()
    client.get(f"/api/gallery/{only_report(client)}")
    for record in (*world.records("base"), *world.records("candidate")):
        picture = Image.open(io.BytesIO(client.get(f"/pictures/{record['image_sha256']}.png").content))
        assert pixel_digest(picture) == record["image_sha256"] and not picture.info
    assert client.get(f"/pictures/{'0' * 64}.png").status_code == 404


def test_a_report_whose_artifacts_are_gone_says_so(world: World) -> None:
    client = world.client()
    id = only_report(client)
    [report] = world.store.manifests("report")
    drawn = report.recipe.inputs["candidate"]
    world.store.remove(drawn.kind, drawn.key)
    assert f"{drawn} is not in the store" in client.get(f"/api/gallery/{id}").json()["error"]
    world.store.remove("report", report.key)
    answer = client.post("/api/ask", json={"report": id, "voter": "ann"})
    assert answer.status_code == 400 and "the artifacts of this report are not in the store" in answer.json()["error"]
    assert client.get(f"/reports/{id}/report.html").status_code == 200, "what people were given stays"


def test_folders_that_hold_no_report_are_left_out(tmp_path: Path) -> None:
    for name, text in (("broken", "{"), ("other", "{}"), ("list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(text)
        (tmp_path / name / "report.html").write_text("")
    assert published_reports(tmp_path) == [] == published_reports(tmp_path / "none")


def test_a_page_of_several_candidates_is_listed_without_one(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "report.json").write_text('{"title": "t", "headline": "h", "verdict": null, "more": 1}')
    (tmp_path / "many" / "report.html").write_text("")
    [found] = published_reports(tmp_path)
    assert (found.name, found.candidate, found.verdict) == ("many", None, None)


# --- votes


def vote_all(client: httpx.Client, voter: str, place: str) -> list[dict[str, Any]]:
    """-> every ballot, the last one without a pair."""
    id = only_report(client)
    ballots = [client.post("/api/ask", json={"report": id, "voter": voter}).json()]
    while (pair := ballots[-1]["pair"]) is not None:
        casting = {"report": id, "voter": voter, "pair": pair["id"], "place": place}
        ballots.append(client.post("/api/cast", json=casting).json())
    return ballots


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


def test_other_sites_and_other_names_are_refused(world: World) -> None:
    client = world.client()
    asking = {"report": only_report(client), "voter": "ann"}
    assert client.post("/api/ask", json=asking, headers={"Origin": "http://elsewhere"}).status_code == 403
    assert client.post("/api/ask", json=asking, headers={"Origin": "http://127.0.0.1"}).status_code == 200
    assert client.get("/", headers={"Host": "elsewhere"}).status_code == 400


def test_the_page_asks_nobody_else(world: World) -> None:
    policy = world.client().get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "http" not in policy and "unsafe" not in policy
    for file in PAGE.iterdir():
        assert "//" not in file.read_text().replace("// ", ""), f"an address in {file.name}"
        assert "innerHTML" not in file.read_text()


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


# --- typed prompts


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


# --- the command


@pytest.fixture
def page(world: World) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command itself on a free port; -> its address and process."""
    line = [sys.executable, "-m", "flows.cli", "view", "--port", "0", "--votes", str(world.votes)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SDXL_FLOWS_STORE": str(world.store.root)}
    process = subprocess.Popen(line, cwd=world.folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip(), process
    process.kill()
    process.wait()


def test_the_command_serves_the_page_until_it_is_interrupted(
    page: tuple[str, subprocess.Popen[str]], world: World
) -> None:
    address, process = page
    with httpx.Client(base_url=address) as client:
        assert b"viewer.js" in client.get("/").content
        vote_all(client, "ann", "left")
    assert len(read_votes(world.votes).votes) == 3
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0


def test_a_browser_shows_what_strangers_wrote_as_text(page: tuple[str, subprocess.Popen[str]], tmp_path: Path) -> None:
    """The page's own script, run: a card for every pair, and no element made of a prompt."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs chromium or google-chrome")
    line = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    line += ["--virtual-time-budget=20000", "--dump-dom", f"{page[0]}/#gallery"]
    found = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True).stdout
    assert found.count('class="card"') == 3 and "3 of 3 pairs" in found
    assert "&lt;img src=x onerror=alert(1)&gt;" in found and "<img src=x" not in found


def test_mistakes_end_in_a_message_and_exit_code_2(cli: Cli, tmp_path: Path) -> None:
    def told(*arguments: str) -> str:
        done = cli("view", *arguments)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr

    assert "there is no store" in told()
    ArtifactStore(tmp_path / "store")
    assert "they go with --config" in told("--candidate", "base")
    assert "no such configuration file" in told("--config", "nowhere.yaml")
    (tmp_path / "votes.jsonl").write_text("nonsense\n")
    assert "votes.jsonl line 1: not a vote" in told()
    (tmp_path / "votes.jsonl").unlink()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen there" in told("--port", str(taken.getsockname()[1]))
