"""The page of `sdxl-flows view`: reports, galleries, who is let in, and the command."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from eval.images import pixel_digest
from eval.votes import read_votes
from flows.viewer.app import PAGE
from tasks.published import published_reports
from tasks.store import ArtifactStore
from tests.flows.conftest import REPOSITORY, Cli
from tests.flows.viewed import World, only_report, vote_all

pytestmark = pytest.mark.ci


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
