"""Known prompt sets in their own form, and the choice among their prompts."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdxl_core.errors import UserError
from sdxl_core.prompt_sets import FORMATS, read_hub_prompts, read_prompts
from sdxl_core.prompt_sets.choice import of_categories, once_each, stratified
from sdxl_core.prompts import Prompt
from tests.sdxl_core.prompt_sets.published import PUBLISHED

Pairs = list[tuple[str, str]]


def pairs(prompts: tuple[Prompt, ...]) -> Pairs:
    return [(prompt.prompt, prompt.category) for prompt in prompts]


def test_every_known_set_is_tested() -> None:
    assert {*PUBLISHED, "own", "storyboards"} == set(FORMATS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_set_is_read_as_it_is_published(tmp_path: Path, name: str) -> None:
    place, expected = PUBLISHED[name](tmp_path)
    assert pairs(read_prompts(place, name)) == expected


@pytest.mark.parametrize(("name", "file"), [("hpd", "photo.json"), ("t2i_compbench", "color_val.txt")])
def test_one_file_of_a_folder_is_a_set_too(tmp_path: Path, name: str, file: str) -> None:
    folder, expected = PUBLISHED[name](tmp_path)
    category = file.partition(".")[0].removesuffix("_val")
    assert pairs(read_prompts(folder / file, name)) == [pair for pair in expected if pair[1] == category]


@pytest.mark.parametrize("name", PUBLISHED)
def test_ids_come_from_texts_alone(tmp_path: Path, name: str) -> None:
    """The same in another set, or after another reader: one text is one id, and has one noise."""
    place, expected = PUBLISHED[name](tmp_path)
    (tmp_path / "own.txt").write_text("".join(f"{text}\n" for text in dict.fromkeys(text for text, _ in expected)))
    ids = {prompt.prompt: prompt.id for prompt in read_prompts(tmp_path / "own.txt")}
    assert all(prompt.id == ids[prompt.prompt] for prompt in read_prompts(place, name))


def test_a_folder_without_validation_files_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "shape.txt").write_text("a round box\n")
    assert pairs(read_prompts(tmp_path, "t2i_compbench")) == [("a round box", "shape")]


UNFIT: dict[str, tuple[str, str, str]] = {
    "parti": ("x.tsv", "Prompt\tCategory\na cat\n", "line 2: expected text as 'Category', got None"),
    "hpd": ("x.json", '{"a": 1}', "expected a JSON list of prompts, got dict"),
    "geneval": ("x.jsonl", '{"prompt": "a cat"}', "line 1: expected text as 'tag', got None"),
    "t2i_compbench": ("x.txt", "\n", "holds no prompt"),
    "dreambooth": ("x.txt", "a {0} {1}", "holds no prompt"),
    "pick_a_pic": ("x.parquet", "a cat", "not a parquet file"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_files_of_another_form_are_refused(tmp_path: Path, name: str) -> None:
    file, text, message = UNFIT[name]
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / file, name)
    (tmp_path / "x.png").touch()
    with pytest.raises(UserError, match=f"should end in .*, as format {name} does"):
        read_prompts(tmp_path / "x.png", name)
    if not FORMATS[name].takes_folder:
        with pytest.raises(UserError, match="got a folder"):
            read_prompts(tmp_path, name)


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a cat"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet, row 0: expected text as 'caption', got None"):
        read_prompts(tmp_path / "x.parquet", "pick_a_pic")


# --- the hub ---


def test_a_hub_dataset_is_read_by_split_and_columns(tmp_path: Path) -> None:
    """`datasets` loads a folder as it loads a hub repository."""
    captions = {"validation_unique": ["a cat", "a dog"], "test_unique": ["a bird"]}
    for split, texts in captions.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        table = pa.table({"caption": texts, "jpg_0": [b"picture"] * len(texts)})
        pq.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    for asked, split in ((None, "validation_unique"), ("test_unique", "test_unique")):
        found = read_hub_prompts(str(tmp_path), "pick_a_pic", asked, None)
        assert [prompt.prompt for prompt in found] == captions[split]
    with pytest.raises(UserError, match="split nothing: expected a dataset of the hub with caption"):
        read_hub_prompts(str(tmp_path), "pick_a_pic", "nothing", None)
    with pytest.raises(UserError, match="split test_unique: expected a dataset of the hub with Prompt and Category"):
        read_hub_prompts(str(tmp_path), "parti", "test_unique", None)


def test_a_hub_that_cannot_be_reached_is_told_with_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"dataset someone/prompts, split train: .* begins with \./"):
        read_hub_prompts("someone/prompts", "parti", None, "abc")


def test_sets_that_live_nowhere_on_the_hub_are_local() -> None:
    with pytest.raises(UserError, match=r"expected a local file of format geneval, got 'x/y'.*\./x/y"):
        read_hub_prompts("x/y", "geneval", None, None)


# --- choice ---

SIZES = {"animals": 40, "places": 20, "text": 10, "rare": 2}
MANY = [Prompt(f"{name}-{number}", f"{name} {number}", name) for name, size in SIZES.items() for number in range(size)]


def shuffled(seed: int) -> list[Prompt]:
    return random.Random(seed).sample(MANY, len(MANY))


def test_a_sample_gives_each_category_its_share() -> None:
    found = Counter(prompt.category for prompt in stratified(MANY, 36, 0, "x"))
    assert found == {"animals": 20, "places": 10, "text": 5, "rare": 1}


@pytest.mark.parametrize("count", [1, 7, 36, 71])
def test_a_sample_does_not_depend_on_the_order_and_a_larger_one_holds_it(count: int) -> None:
    chosen = {prompt.id for prompt in stratified(MANY, count, 3, "x")}
    assert len(chosen) == count
    assert chosen == {prompt.id for prompt in stratified(shuffled(count), count, 3, "x")}
    assert chosen < {prompt.id for prompt in stratified(MANY, count + 1, 3, "x")}


def test_another_seed_draws_others_in_the_set_s_order() -> None:
    one, two = (stratified(MANY, 20, seed, "x") for seed in (0, 1))
    assert one != two
    assert [prompt.id for prompt in one] == [prompt.id for prompt in MANY if prompt in one]


def test_what_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(UserError, match="sample: expected at most 72"):
        stratified(MANY, 73, 0, "x")
    with pytest.raises(UserError, match=r"there is no 'txt'.*Did you mean 'text'"):
        of_categories(MANY, ["txt"], "x")
    assert of_categories(MANY, [], "x") == MANY
    assert {prompt.category for prompt in of_categories(MANY, ["text", "rare"], "x")} == {"text", "rare"}


def test_what_stands_twice_is_drawn_once_under_both_names_in_either_order() -> None:
    both = [Prompt("a", "x", "photo"), Prompt("b", "y", "photo"), Prompt("a", "x", "anime"), Prompt("a", "x", "anime")]
    assert once_each(both) == [Prompt("a", "x", "anime+photo"), Prompt("b", "y", "photo")]
    assert {(p.id, p.category) for p in once_each(both[::-1])} == {(p.id, p.category) for p in once_each(both)}
