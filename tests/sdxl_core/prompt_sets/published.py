"""Small files in the forms that known sets are published in, with the traps of the real ones.

Each function writes into a folder, and returns the place and the (prompt, category) pairs that stand there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Pairs = list[tuple[str, str]]


def parti(folder: Path) -> tuple[Path, Pairs]:
    """A quotation mark at the beginning of a prompt, blanks at its end, an empty Note, a comma."""
    lines = [
        "Prompt\tCategory\tChallenge\tNote",
        '"W O R D" painted on a wall\tIllustrations\tWriting & Symbols\t',
        "a road with a line \tOutdoor Scenes\tSimple Detail\t",
        'a cat, a dog and a "fish"\tAnimals\tBasic\tthree',
    ]
    (folder / "PartiPrompts.tsv").write_text("\n".join(lines) + "\n")
    return folder / "PartiPrompts.tsv", [
        ('"W O R D" painted on a wall', "Illustrations"),
        ("a road with a line", "Outdoor Scenes"),
        ('a cat, a dog and a "fish"', "Animals"),
    ]


def hpd(folder: Path) -> tuple[Path, Pairs]:
    styles = {
        "anime": ["a girl with a sword"],
        "concept-art": ["a ruin"],
        "paintings": ["a pear"],
        "photo": ["a dog"],
    }
    place = folder / "benchmark"
    place.mkdir()
    for style, prompts in styles.items():
        (place / f"{style}.json").write_text(json.dumps(prompts))
    (place / "photo.json").write_text(json.dumps([{"prompt": "a dog", "image_path": ["x.jpg"]}]))
    return place, [(prompt, style) for style, prompts in styles.items() for prompt in prompts]


def geneval(folder: Path) -> tuple[Path, Pairs]:
    rows = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
        {"tag": "counting", "include": [{"class": "cat", "count": 2}], "exclude": [], "prompt": "a photo of two cats"},
    ]
    (folder / "evaluation_metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "evaluation_metadata.jsonl", [(str(row["prompt"]), str(row["tag"])) for row in rows]


def t2i_compbench(folder: Path) -> tuple[Path, Pairs]:
    """Lines end as on Windows; beside the validation files lie the training ones, the whole, and parts."""
    place = folder / "dataset"
    place.mkdir()
    for name in ("color", "color_train", "color_val_seen", "non_spatial_train"):
        (place / f"{name}.txt").write_text("not to be read\n")
    (place / "color_val.txt").write_bytes(b"a green bench and a blue bowl\r\na red cup\r\n")
    (place / "non_spatial_val.txt").write_bytes(b"a person looks at a rainbow.\r\n\r\n")
    return place, [
        ("a green bench and a blue bowl", "color"),
        ("a red cup", "color"),
        ("a person looks at a rainbow.", "non_spatial"),
    ]


def dreambooth(folder: Path) -> tuple[Path, Pairs]:
    """Python, as it stands in the published file, which is never run."""
    text = """Classes

subject_name,class
backpack,backpack

Prompts

Object Prompts

prompt_list = [
'a {0} {1} on a rug'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} on a rug'.format(unique_token, class_token),
'a {0} {1} wearing a hat'.format(unique_token, class_token)
]
"""
    (folder / "prompts_and_classes.txt").write_text(text)
    return folder / "prompts_and_classes.txt", [
        ("{subject} on a rug", "object"),
        ("a red {bare_subject}", "object"),
        ("{subject} on a rug", "live"),
        ("{subject} wearing a hat", "live"),
    ]


def pick_a_pic(folder: Path) -> tuple[Path, Pairs]:
    """In two files, with pictures beside the captions."""
    place = folder / "data"
    place.mkdir()
    captions = ["a cat", "a dog", "a cat"]
    for number, some in enumerate((captions[:2], captions[2:])):
        pq.write_table(pa.table({"caption": some, "jpg_0": [b"x"] * len(some)}), place / f"{number}.parquet")
    return place, [(caption, "") for caption in captions]


PUBLISHED: dict[str, Callable[[Path], tuple[Path, Pairs]]] = {
    "parti": parti,
    "hpd": hpd,
    "geneval": geneval,
    "t2i_compbench": t2i_compbench,
    "dreambooth": dreambooth,
    "pick_a_pic": pick_a_pic,
}
