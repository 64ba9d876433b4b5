"""Pictures made elsewhere: whose they are, and what is wrong with a folder of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.images import read_image_set
from sdxl_core.errors import UserError
from sdxl_core.given_pictures import find_given_pictures, take_over_pictures
from sdxl_core.prompts import Prompt

PROMPTS = (Prompt("cat", "a cat", "animals"), Prompt("dog", "a dog"))
WHERE = "evaluation.candidate"


def picture(path: Path, red: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (red, 0, 0)).save(path)
    return path


def write_metadata(folder: Path, *lines: dict[str, Any]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def found(folder: Path, replicates: int = 1) -> dict[str, str]:
    files = find_given_pictures(folder, PROMPTS, replicates, WHERE)
    return {f"{prompt}-{replicate}": path.name for (prompt, replicate), path in files.items()}


def test_by_file_names(tmp_path: Path) -> None:
    picture(tmp_path / "cat.png")
    picture(tmp_path / "more" / "dog-0.jpg")
    assert found(tmp_path) == {"cat-0": "cat.png", "dog-0": "dog-0.jpg"}
    picture(tmp_path / "cat-1.webp")
    picture(tmp_path / "dog-1.png")
    assert found(tmp_path, 2)["cat-1"] == "cat-1.webp"


def test_by_metadata(tmp_path: Path) -> None:
    """By id or text; the order of appearance stands for the replicate."""
    for name in "abcd":
        picture(tmp_path / "made" / f"{name}.png")
    write_metadata(
        tmp_path,
        {"file_name": "made/b.png", "prompt": "a cat", "replicate": 1},
        {"file_name": "made/a.png", "prompt_id": "cat", "replicate": 0},
        {"file_name": "made/c.png", "prompt": "a dog"},
        {"file_name": "made/d.png", "prompt": "a dog"},
    )
    assert found(tmp_path, 2) == {"cat-0": "a.png", "cat-1": "b.png", "dog-0": "c.png", "dog-1": "d.png"}


def test_what_is_wrong_is_counted_and_named(tmp_path: Path) -> None:
    for name in ("cat.png", "cat-0.png", "x.png", "y.png", "z.png", "w.png"):
        picture(tmp_path / name)
    with pytest.raises(UserError) as error:
        find_given_pictures(tmp_path, PROMPTS, 1, WHERE)
    message = str(error.value)
    assert message.startswith(f"{WHERE} {tmp_path}: expected one picture for every prompt and replicate, got ")
    assert "1 for a prompt and replicate that has one: cat.png (cat-0)" in message
    assert "4 surplus (of no prompt): w.png, x.png, y.png, ..." in message
    assert "1 missing: dog-0" in message


SECRET = "secret.png"
LINES: dict[str, dict[str, Any]] = {
    "leaves the dataset's folder": {"file_name": f"../{SECRET}", "prompt_id": "cat"},
    "expected a file name, got None": {"prompt_id": "cat"},
    "a link that leaves the dataset's folder": {"file_name": "link.png", "prompt_id": "cat"},
    "no such file": {"file_name": "nowhere.png", "prompt_id": "cat"},
    "prompt_id 'bird' is not in the prompt set": {"file_name": "cat.png", "prompt_id": "bird"},
    "neither prompt_id nor prompt": {"file_name": "cat.png"},
    "is of 0 prompts of the set; say prompt_id": {"file_name": "cat.png", "prompt": "a bird"},
    "surplus (replicates are 0 to 0): metadata.jsonl:2: 7": {
        "file_name": "cat.png",
        "prompt_id": "cat",
        "replicate": 7,
    },
    "metadata.jsonl:2: True": {"file_name": "cat.png", "prompt_id": "cat", "replicate": True},
    "surplus (not in metadata.jsonl): cat.png": {"file_name": "dog.png", "prompt_id": "cat"},
}


@pytest.mark.parametrize("message", LINES)
def test_lines_that_lead_elsewhere_or_nowhere_are_refused(tmp_path: Path, message: str) -> None:
    folder = tmp_path / "made"
    picture(tmp_path / SECRET)
    picture(folder / "cat.png")
    picture(folder / "dog.png")
    (folder / "link.png").symlink_to(tmp_path / SECRET)
    write_metadata(folder, {"file_name": "dog.png", "prompt_id": "dog"}, LINES[message])
    with pytest.raises(UserError) as error:
        find_given_pictures(folder, PROMPTS, 1, WHERE)
    assert message in str(error.value)


def test_a_link_out_of_the_folder_is_refused_without_metadata_too(tmp_path: Path) -> None:
    picture(tmp_path / SECRET)
    picture(tmp_path / "made" / "dog.png")
    (tmp_path / "made" / "cat.png").symlink_to(tmp_path / SECRET)
    with pytest.raises(UserError, match=r"1 that cannot be used: cat\.png: a link that leaves"):
        find_given_pictures(tmp_path / "made", PROMPTS, 1, WHERE)


def test_a_name_of_two_prompts_is_refused(tmp_path: Path) -> None:
    prompts = (Prompt("a", "x"), Prompt("a-1", "y"))
    for name in ("a-0", "a-1", "a-1-0", "a-1-1"):
        picture(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=r"1 of two prompts, by their names; write metadata\.jsonl: a-1\.png"):
        find_given_pictures(tmp_path, prompts, 2, WHERE)


def test_pixels_are_taken_over_as_an_image_set(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "cat.bmp", red=200)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "in" / "dog.png")
    files = find_given_pictures(tmp_path / "in", PROMPTS, 1, WHERE)
    assert take_over_pictures(files, PROMPTS, tmp_path / "out") == {"pictures": 2}
    cat, dog = read_image_set(tmp_path / "out")
    assert cat.load().getpixel((0, 0)) == (200, 0, 0) and cat.load().size == (8, 6)
    assert dog.load().getpixel((0, 0)) == (255, 255, 255)
    assert (cat.key, cat.category, cat.seed) == (("cat", 0), "animals", None)


def test_pictures_that_are_none_are_named_together(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"<html>not found</html>")
    Image.effect_noise((64, 64), 50).save(tmp_path / "dog.png")
    whole = (tmp_path / "dog.png").read_bytes()
    (tmp_path / "dog.png").write_bytes(whole[: len(whole) // 2])
    files = find_given_pictures(tmp_path, PROMPTS, 1, WHERE)
    with pytest.raises(UserError, match=r"2 that cannot be decoded: cat\.png: a web page.*dog\.png: damaged"):
        take_over_pictures(files, PROMPTS, tmp_path / "out")
