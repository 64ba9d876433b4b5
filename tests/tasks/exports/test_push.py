"""The folder that would be uploaded, its card, and what is refused before anything is."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sdxl_core.errors import UserError
from tasks.card import escaped
from tasks.push import Upload, check_repository, prepare_upload, push
from tasks.runs import record_run
from tasks.store import ArtifactStore
from tests.tasks.exports.conftest import HOSTILE, MINIATURE, PLAIN


@pytest.fixture(scope="module", params=["short", "full"])
def uploaded(runs: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A working folder with the upload where its repository's name would have it, and the base by its name."""
    folder = tmp_path_factory.mktemp(request.param)
    with contextlib.chdir(runs):
        files = prepare_upload(
            ArtifactStore(runs / "store"), Upload(request.param, "me/model"), folder / "me" / "model"
        )
    assert {"README.md", "report.html", "samples/0-candidate.png"} <= {name for name, _ in files}
    (folder / "sdxl").symlink_to(MINIATURE / "sdxl")
    return folder


def parts(card: Path) -> tuple[dict[str, Any], str]:
    _, front, body = card.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_says_what_it_is(uploaded: Path) -> None:
    front, body = parts(uploaded / "me" / "model" / "README.md")
    assert front["license"] == "other" and front["license_name"] == "my-own"
    assert front["library_name"] == "diffusers" and front["pipeline_tag"] == "text-to-image"
    assert ("lora" in front["tags"]) == (uploaded.name.startswith("short")) and "person" in front["tags"]
    assert front["instance_prompt"] == "kestrel person"
    assert {entry["text"] for entry in front["widget"]} == {HOSTILE, PLAIN}
    for entry in front["widget"]:
        assert (uploaded / "me" / "model" / entry["output"]["url"]).is_file()
    assert "| **CLIP-I** |" in body and "95% bootstrap intervals" in body
    assert "training.learning\\_rate" in body and "| train | train/" in body


def test_nothing_in_the_card_is_others_markup(uploaded: Path) -> None:
    text = (uploaded / "me" / "model" / "README.md").read_text(encoding="utf-8")
    front, code, rest = text.split("---\n")[1], text.split("```")[1], "".join(text.split("```")[::2])
    assert text.count("```") == 2 and "\\x60" in code
    outside = rest.replace(front, "")
    for markup in ("<b>", "<i>", "](http", "http://", "\n# *", "\n# two", "$x$"):
        assert markup not in outside
    assert str(MINIATURE) not in text and "/tmp" not in text
    table = [line for line in outside.splitlines() if "samples/" in line]
    assert len(table) == 2 and all(len(line.replace("\\|", "").split("|")) == 5 for line in table)


def test_the_code_in_the_card_draws_the_picture_beside_it(uploaded: Path) -> None:
    code = (uploaded / "me" / "model" / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    with contextlib.chdir(uploaded):
        exec(code, {})
    drawn, shown, base = (
        np.asarray(Image.open(uploaded / path), dtype=int)
        for path in ("picture.png", "me/model/samples/0-candidate.png", "me/model/samples/0-base.png")
    )
    assert np.abs(drawn - shown).max() <= 1  # drawn in a batch there and alone here
    assert np.abs(drawn - base).max() > 1


def test_a_card_needs_a_finished_run_and_a_name(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("me", "me/", "../me/x", "me/a--b", "a/b/c", "me/x y", "-me/x"):
        with pytest.raises(UserError, match="--repo: expected user/name"):
            check_repository(name)
    train = next(m for m in store.manifests("train"))
    record_run(store, "unjudged", "test", {"train": train.ref})
    with pytest.raises(UserError, match="no finished run has its report"):
        prepare_upload(store, Upload("unjudged", "me/x"), tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="a place where nothing is yet"):
        prepare_upload(store, Upload("short", "me/x"), tmp_path / "full")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="hf auth login"):
        push(store, Upload("short", "me/x"), private=True, to=tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_what_the_hub_says_is_told_and_the_token_is_not(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests have no network, which is what the hub's library says here."""
    monkeypatch.setenv("HF_TOKEN", "hf_mustNotBeSeen")
    with pytest.raises(UserError, match=r"the hub did not take me/x: OfflineModeIsEnabled") as told:
        push(store, Upload("short", "me/x"), private=True, to=tmp_path / "z")
    assert "mustNotBeSeen" not in str(told.value)
    written = [path.read_bytes() for path in (tmp_path / "z").rglob("*") if path.is_file()]
    assert len(written) > 5 and not any(b"mustNotBeSeen" in data for data in written)


def test_the_report_may_stay_at_home(store: ArtifactStore, tmp_path: Path) -> None:
    files = prepare_upload(store, Upload("short", "me/x", with_report=False), tmp_path / "x")
    assert "report.html" not in {name for name, _ in files}
    assert "report.html" not in (tmp_path / "x" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("- item", "\\- item"),
        ("1. item", "1\\. item"),
        ("0.5 of it", "0.5 of it"),
        ("a\n\n# b", "a \\# b"),
        ("www.x.y a@b.c", "www\\.x.y a\\@b.c"),
        ("![x](y)", "\\!\\[x\\]\\(y\\)"),
        ("&lt;<script>", "&amp;lt;&lt;script\\>"),
    ],
)
def test_escaping(text: str, safe: str) -> None:
    assert escaped(text) == safe
