"""What is published of a dataset: it loads again to the same records, here and in `datasets`, and tells no names."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from PIL import Image
from ruamel.yaml import YAML

from sdxl_core.config import DatasetConfig
from sdxl_core.data.masks import read_mask
from sdxl_core.data.prepare import prepare_dataset
from sdxl_core.data.publish import write_imagefolder
from sdxl_core.data.records import Record, read_records
from sdxl_core.errors import UserError

KINDS = ["plain", "concepts", "faces", "mask folder", "alpha"]


def dataset(kind: str, root: Path) -> DatasetConfig:
    """Four pictures, two of the same bytes with different captions."""
    for number, name in enumerate(["secret name/a.png", "secret name/b.png", "other/c.png", "other/d.png"]):
        (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGBA", (8, 6), (min(number, 2) * 50, 0, 0, 255))
        picture.paste((9, 9, 9, 0), (4, 0, 8, 6))
        picture.convert("RGBA" if kind == "alpha" else "RGB").save(root / "set" / name)
        mask = root / "masks" / name
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 6), 50 + number).save(mask.with_suffix(".bmp"))
    if kind == "concepts":
        return DatasetConfig(source="concepts", path=str(root / "set"))
    names = sorted(path.relative_to(root / "set").as_posix() for path in (root / "set").rglob("*.png"))
    lines = [{"file_name": name, "text": f"picture {i} «é»"} for i, name in enumerate(names)]
    if kind == "faces":
        lines = [{**line, "where": None if i == 1 else [i, 0, i + 2, 3.5]} for i, line in enumerate(lines)]
    (root / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings: dict[str, Any] = {"faces": {"face_box_column": "where"}, "alpha": {"masks": "alpha"}}.get(kind, {})
    if kind == "mask folder":
        settings["masks"] = str(root / "masks")
    return DatasetConfig(path=str(root / "set"), **settings)


def published(kind: str, root: Path) -> tuple[Path, list[Record]]:
    prepare_dataset(dataset(kind, root), root / "artifact")
    write_imagefolder(root / "artifact", root / "folder", "toy")
    return root / "folder", read_records(root / "artifact")


@pytest.mark.parametrize("kind", KINDS)
def test_it_loads_again_to_equal_records(kind: str, tmp_path: Path) -> None:
    """By the configuration that the card gives; only the pictures' old names are gone."""
    folder, before = published(kind, tmp_path)
    card = (folder / "README.md").read_text(encoding="utf-8")
    settings = YAML(typ="safe").load(card.split("```yaml\n")[1].split("```")[0])["dataset"]
    settings |= {
        name: settings[name].replace("./folder", str(folder)) for name in ("path", "masks") if name in settings
    }
    prepare_dataset(DatasetConfig.model_validate(settings), tmp_path / "again")
    after = read_records(tmp_path / "again")
    assert [replace(record, source="") for record in after] == [replace(record, source="") for record in before]
    for record, again in zip(before, after, strict=True):
        assert (tmp_path / "artifact" / record.image).read_bytes() == (tmp_path / "again" / again.image).read_bytes()
        if record.mask:
            assert read_mask(tmp_path / "artifact", record) == read_mask(tmp_path / "again", again)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_an_imagefolder_of_datasets_too(kind: str, tmp_path: Path) -> None:
    folder, records = published(kind, tmp_path)
    loaded = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["text"] for row in loaded] == [record.text for record in records]
    for row, record in zip(loaded, records, strict=True):
        assert row["image"].size == (record.width, record.height)
        assert row.get("concept") == record.concept
        assert row.get("face_box") == (list(record.face_box) if record.face_box else None)
        if kind == "mask folder":
            assert row["mask"].convert("L") == read_mask(tmp_path / "artifact", record)


def test_no_name_of_the_place_it_came_from_is_published(tmp_path: Path) -> None:
    folder, _ = published("mask folder", tmp_path)
    for path in folder.rglob("*"):
        assert "secret" not in path.name and path.name != "a.png"
        assert path.is_dir() or b"secret" not in path.read_bytes()


def test_the_same_dataset_gives_the_same_bytes(tmp_path: Path) -> None:
    folder, _ = published("mask folder", tmp_path)
    write_imagefolder(tmp_path / "artifact", tmp_path / "twice", "toy")
    first, second = (
        {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (folder, tmp_path / "twice")
    )
    assert first == second


def test_nothing_is_written_over(tmp_path: Path) -> None:
    folder, _ = published("plain", tmp_path)
    with pytest.raises(UserError, match="expected a new or empty folder"):
        write_imagefolder(tmp_path / "artifact", folder, "toy")


# --- the hub ---


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload of small files uses; remembers what it was sent."""

    sent: list[tuple[str, str, dict[str, str], bytes]] = []  # noqa: RUF012
    refuses = False

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.sent.append((self.command, self.path, dict(self.headers), body))
        status, reply = (403, {"error": "You may not write here"}) if self.refuses else (200, self.reply(body))
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def reply(self, body: bytes) -> object:
        here = f"http://{self.headers['Host']}"
        if self.path.endswith("/repos/create"):
            return {"url": f"{here}/datasets/me/dog"}
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return {"files": files}
        if "/commit/" in self.path:
            return {"commitUrl": f"{here}/datasets/me/dog/commit/1", "commitOid": "1" * 40, "success": True}
        if "/tree/" in self.path:
            return [{"type": "file", "path": "images/old.png", "size": 1, "oid": "0" * 40}]
        return {"id": "me/dog", "sha": "1" * 40, "siblings": [{"rfilename": "images/old.png"}]}

    do_GET = do_POST = do_HEAD = answer

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    handler = type("OneHub", (Hub,), {"sent": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


PROGRAM = """
import sys
from pathlib import Path
from sdxl_core.data.publish import require_token, upload
from sdxl_core.errors import UserError
try:
    require_token()
    print(upload(Path(sys.argv[1]), "me/dog", private=True))
except UserError as error:
    print("refused:", error)
"""


def uploaded(folder: Path, home: Path, **environment: str) -> str:
    """In a process of its own: the hub's address and token are read when its library is loaded."""
    environment = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", **environment}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    line = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(line, env={**inherited, **environment}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_upload_is_one_commit_of_the_folder_with_the_users_token(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    address, server = hub
    folder, _ = published("plain", tmp_path)
    said = uploaded(folder, tmp_path / "home", HF_ENDPOINT=address, HF_TOKEN="hf_ours")
    assert said == f"{address}/datasets/me/dog\n"
    create = next(json.loads(body) for _, path, _, body in server.sent if path.endswith("/repos/create"))
    assert create["visibility"] == "private" and create["type"] == "dataset"
    commits = [body for _, path, _, body in server.sent if "/commit/" in path]
    assert len(commits) == 1
    lines = [json.loads(line) for line in commits[0].decode().splitlines()]
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {line["value"]["path"] for line in lines if line["key"] == "file"} == files
    assert {line["value"]["path"] for line in lines if line["key"] == "deletedFile"} == {"images/old.png"}
    assert all(headers.get("authorization") == "Bearer hf_ours" for _, _, headers, _ in server.sent)


def test_a_hub_that_refuses_and_nobody_logged_in_are_told(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    address, server = hub
    server.refuses = True
    said = uploaded(tmp_path, tmp_path / "home", HF_ENDPOINT=address, HF_TOKEN="hf_ours")
    assert said.startswith("refused: --repo me/dog: expected a dataset that you may write") and "403" in said
    assert "hf_ours" not in said
    said = uploaded(tmp_path, tmp_path / "home", HF_ENDPOINT=address)
    assert (
        said == "refused: prepare-dataset push: nobody is logged in to the hub; run `hf auth login` or set HF_TOKEN\n"
    )
