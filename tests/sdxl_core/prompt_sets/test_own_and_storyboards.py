"""Files of our own form: prompts with settings, templates, storyboards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from sdxl_core.picture_settings import PictureSettings
from sdxl_core.prompt_sets import read_prompts
from sdxl_core.prompt_sets.subject import fill
from sdxl_core.prompts import Prompt

BOARD = {"character": "a cat", "scene": "a kitchen", "frames": ["sleeps", "eats"]}


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document) + "\n")
    return path


def test_a_prompt_says_how_it_is_drawn(tmp_path: Path) -> None:
    row = {
        "prompt": "a cat",
        "id": "cat",
        "negative_prompt": "dog",
        "settings": {"steps": 7, "guidance_scale": 3, "width_px": 1216, "height_px": 832},
        "seed_of": "pets",
    }
    (prompt,) = read_prompts(write(tmp_path / "p.jsonl", row))
    settings = PictureSettings(negative_prompt="dog", steps=7, guidance_scale=3.0, width_px=1216, height_px=832)
    assert prompt == Prompt("cat", "a cat", settings=settings, seed_of="pets")
    assert prompt.as_dict() == {**row, "category": ""}


MISTAKES = {
    '{"settings": {"step": 7}}': r"line 1: unknown key 'step'",
    '{"settings": {"steps": 0}}': r"line 1: steps: expected greater than or equal to 1, got 0",
    '{"settings": {"steps": "7"}}': r"line 1: steps: expected a valid integer, got '7'",
    '{"settings": {"steps": true}}': r"line 1: steps: expected a valid integer",
    '{"settings": {"width_px": 100}}': r"line 1: width_px: expected a multiple of 8",
    '{"settings": {"negative_prompt": "x"}}': "negative_prompt stands beside settings",
    '{"settings": {"batch_size": 1}}': r"unknown key 'batch_size'",
    '{"settings": [1]}': r"line 1: settings: expected an object",
    '{"negative_prompt": 3}': r"line 1: negative_prompt: expected a valid string",
    '{"seed_of": "a/b"}': r"id 'a/b' should hold",
    '{"categry": "x"}': r"unknown key 'categry'.*Did you mean 'category'",
}


@pytest.mark.parametrize("further", MISTAKES)
def test_what_a_prompt_cannot_say_is_refused_by_its_line(tmp_path: Path, further: str) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "a cat", **json.loads(further)})
    with pytest.raises(UserError, match=MISTAKES[further]):
        read_prompts(path)


# --- templates ---


def test_a_template_is_filled_and_keeps_its_id(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a photo of {subject}\na red {bare_subject}\na beach\n")
    templates = read_prompts(tmp_path / "p.txt")
    filled = fill(templates, " a sks dog", "p.txt")
    assert [prompt.prompt for prompt in filled] == ["a photo of a sks dog", "a red sks dog", "a beach"]
    assert [prompt.id for prompt in filled] == [prompt.id for prompt in templates]
    assert fill(templates, "ants", "p.txt")[1].prompt == "a red ants", "an article is a word"


def test_a_negative_prompt_is_filled_too() -> None:
    template = Prompt("a", "a beach", settings=PictureSettings(negative_prompt="{subject}", steps=3))
    (filled,) = fill([template], "a dog", "p")
    assert filled.settings == PictureSettings(negative_prompt="a dog", steps=3)


def test_subjects_and_templates_need_each_other() -> None:
    template, plain = Prompt("a", "a photo of {subject}"), Prompt("b", "a beach")
    with pytest.raises(UserError, match=r'p: 1 of 2 prompts leave \{subject\} open, such as "a photo of \{subject\}"'):
        fill([template, plain], None, "p")
    with pytest.raises(UserError, match=r"evaluation.subject = 'a dog': none of the 1 prompts"):
        fill([plain], "a dog", "p")
    assert fill([plain], None, "p") == (plain,)


# --- storyboards ---


def test_boards_become_frames_in_order_that_share_their_noise(tmp_path: Path) -> None:
    (tmp_path / "boards.yaml").write_text(
        "storyboards:\n"
        "  night: {logline: unseen, character: '{subject}', scene: a street, frames: [waits, '{scene} is empty']}\n"
        "  day: {character: a cat, scene: a kitchen, frames: [sleeps, {prompt: eats, negative_prompt: dog}]}\n"
    )
    found = read_prompts(tmp_path / "boards.yaml")
    assert [(prompt.id, prompt.prompt) for prompt in found] == [
        ("night-01", "{subject} waits, a street"),
        ("night-02", "a street is empty"),
        ("day-01", "a cat sleeps, a kitchen"),
        ("day-02", "a cat eats, a kitchen"),
    ]
    assert [(p.storyboard, p.frame, p.category, p.seed_of) for p in found[2:]] == [
        ("day", 1, "day", "day"),
        ("day", 2, "day", "day"),
    ]
    assert len({prompt.seed(0, 0) for prompt in found}) == 2
    assert [prompt.settings.negative_prompt for prompt in found] == [None, None, None, "dog"]
    assert "unseen" not in str(found)
    assert fill(found, "a sks dog", "boards")[0].prompt == "a sks dog waits, a street"


def test_one_board_is_named_by_its_file_in_yaml_and_json(tmp_path: Path) -> None:
    board = {**BOARD, "settings": {"steps": 3, "width_px": 64}, "negative_prompt": "dog"}
    board["frames"] = ["sleeps", {"prompt": "eats", "settings": {"steps": 5}}]
    as_json, as_yaml = (read_prompts(write(tmp_path / f"my cat.{suffix}", board)) for suffix in ("json", "yaml"))
    assert as_json == as_yaml
    assert [prompt.id for prompt in as_json] == ["my-cat-01", "my-cat-02"]
    assert [prompt.settings.steps for prompt in as_json] == [3, 5]
    assert {(prompt.settings.width_px, prompt.settings.negative_prompt) for prompt in as_json} == {(64, "dog")}


UNFIT = {
    "[1]": "expected a storyboard",
    '{"storyboards": [1]}': "expected a storyboard below each name",
    '{"storyboards": {}, "frames": ["x"]}': "nothing beside them",
    '{"storyboards": {}}': "holds no prompt",
    '{"storyboards": {"a b": {}}}': "id 'a b' should hold",
    '{"frames": ["x"], "scene": "y"}': "storyboard p: character: missing",
    '{"character": "x", "scene": "y", "frames": []}': "frames: .*at least 1 item",
    '{"character": "x", "scene": "y", "frames": [" "]}': r"frames\.0\.prompt: .*pattern",
    '{"character": "x", "scene": "y", "frames": [{"promt": "z"}]}': r"frames\.0\.prompt: missing",
    '{"character": "x", "scene": "y", "frames": ["z"], "stile": "w"}': "unknown key 'stile'",
    '{"character": "x", "scene": "y", "frames": ["z"], "settings": {"step": 1}}': "unknown key 'step'",
    '{"character": "x", "scene": "y", "frames": ["z"], "settings": {"negative_prompt": ""}}': "stands beside settings",
    "{": "not JSON",
}


@pytest.mark.parametrize("text", UNFIT)
def test_boards_that_cannot_be_read_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UserError, match=UNFIT[text]):
        read_prompts(tmp_path / "p.json")


def test_yaml_is_plain(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("character: &a x\nscene: *a\nframes: [y]\n")
    with pytest.raises(UserError, match="aliases"):
        read_prompts(tmp_path / "p.yaml")
