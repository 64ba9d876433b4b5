"""`prepare-dataset` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.flows.conftest import Cli
from tests.sdxl_core.data.pair_sets import CHOICES, Choice, as_folder
from tests.tasks.toy import write_experiment

QUIET = "import os; [os.environ.pop(n, None) for n in ('HF_TOKEN', 'HF_TOKEN_PATH')]; os.environ['HF_HOME'] = 'no-home'"


def test_push_writes_what_it_would_upload(cli: Cli, tmp_path: Path) -> None:
    config = write_experiment(tmp_path / "toy")
    done = cli("prepare-dataset", "push", config, "--to", tmp_path / "folder", before=QUIET)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"dataset: {tmp_path / 'folder'}\n"
    lines = [json.loads(line) for line in (tmp_path / "folder" / "metadata.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["a photo 0", "a photo 1", "a photo 2"]
    assert all((tmp_path / "folder" / line["file_name"]).is_file() for line in lines)
    assert "# toy" in (tmp_path / "folder" / "README.md").read_text()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of --repo user/name and --to FOLDER"),
        (["--repo", "me/dog", "--to", "folder"], "expected one of"),
        (["--repo", "dog"], "--repo: expected user/name, got 'dog'"),
        (["--repo", "me/dog"], "nobody is logged in to the hub; run `hf auth login` or set HF_TOKEN"),
        (["--to", "toy"], "expected a new or empty folder"),
    ],
)
def test_what_cannot_be_pushed_is_told_and_nothing_is_left(
    cli: Cli, tmp_path: Path, arguments: list[str], message: str
) -> None:
    config = write_experiment(tmp_path / "toy")
    before = sorted((tmp_path / "toy").rglob("*"))
    done = cli("prepare-dataset", "push", config, *arguments, before=QUIET)
    assert done.returncode == 2 and message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted((tmp_path / "toy").rglob("*")) == before


def test_its_help_is_worth_reading(cli: Cli) -> None:
    assert "--private" in cli("prepare-dataset", "push", "--help").stdout


# --- check, and preference pairs ---


def test_check_tells_of_a_dataset_and_keeps_nothing(cli: Cli, tmp_path: Path) -> None:
    config = write_experiment(tmp_path / "toy")
    before = sorted((tmp_path / "toy").rglob("*"))
    done = cli("prepare-dataset", "check", config)
    assert done.returncode == 0, done.stderr
    assert "3 (3 different)" in done.stdout and "3 of 64 x 64 px" in done.stdout
    assert sorted((tmp_path / "toy").rglob("*")) == before


def test_check_names_all_bad_pairs_by_kind(cli: Cli, tmp_path: Path) -> None:
    config = write_experiment(tmp_path / "toy")
    as_folder(tmp_path / "pairs", [*CHOICES, Choice(3, 3), Choice(4, 4), Choice(1, 0, 0.0), Choice(5, 6, 2.0)])
    settings = ("--set", "dataset.source=pairs", "--set", f"dataset.path={tmp_path / 'pairs'}")
    done = cli("prepare-dataset", "check", config, *settings)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "4, 1 ties not trained on" in done.stdout
    for line in (
        "4 entries cannot be used",
        "twice the same picture: 2",
        "listed twice: 1",
        "label other than 0, 0.5 or 1: 1",
        "metadata.jsonl:7: already listed at metadata.jsonl:1",
    ):
        assert line in done.stderr, line


def test_push_writes_pairs_as_a_folder_of_pairs(cli: Cli, tmp_path: Path) -> None:
    config = write_experiment(tmp_path / "toy")
    as_folder(tmp_path / "pairs", CHOICES)
    settings = ("--set", "dataset.source=pairs", "--set", f"dataset.path={tmp_path / 'pairs'}")
    done = cli("prepare-dataset", "push", config, "--to", tmp_path / "folder", *settings, before=QUIET)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "folder" / "metadata.jsonl").read_text().splitlines()]
    assert [(line["text"], line["label"]) for line in lines] == [(choice.text, choice.label) for choice in CHOICES]
    assert all((tmp_path / "folder" / line["preferred_file_name"]).is_file() for line in lines)
