"""The demo's data, drawn from the world: `python -m sdxl_core.miniature.demo_data configs`.

Writes `miniature/kestrel` (a character), `miniature/blueprint` (a style), both as imagefolders, and the prompt sets
that judge what was learned. The files are part of the repository; running this again reproduces them.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path

from sdxl_core.miniature.render import render
from sdxl_core.miniature.world import (
    CHARACTERS,
    COLOUR,
    EXPRESSION,
    HAT,
    SCENE,
    Person,
    caption,
    draw_person,
    draw_view,
    with_article,
)

CHARACTER_PICTURES = 12
STYLE_PICTURES = 16


def character_captions(name: str) -> Iterable[tuple[Person, str]]:
    """The character in a dozen surroundings; the caption names what varies and leaves the looks to the name."""
    rng = random.Random(f"demo/{name}")
    scenes, shirts = list(SCENE), list(COLOUR)
    for i in range(CHARACTER_PICTURES):
        shirt, expression = shirts[i % len(shirts)], EXPRESSION[i % len(EXPRESSION)]
        person = CHARACTERS[name].appear(
            rng, style="photo", shirt_colour=shirt, expression=expression, scene=scenes[i % len(scenes)]
        )
        words = f"a photo of {name} person wearing {with_article(shirt)} shirt {expression} {person.scene}"
        yield person, words


def style_captions(style: str) -> Iterable[tuple[Person, str]]:
    rng = random.Random(f"demo/{style}")
    for _ in range(STYLE_PICTURES):
        person = draw_person(rng, style=style)
        yield person, caption(person, rng, complete=True)


def character_prompts(name: str) -> Iterable[dict[str, str]]:
    """Prompts by what they ask of the character: places, clothes, hats it never wore, another style."""
    who, scenes, colours = f"{name} person", list(SCENE), list(COLOUR)
    for i, scene in enumerate(scenes):
        yield _prompt("place", i, f"a photo of {who} {scene}")
    for i in range(16):
        shirt, scene = colours[i % len(colours)], scenes[-1 - i % len(scenes)]
        yield _prompt("clothes", i, f"a photo of {who} wearing {with_article(shirt)} shirt {scene}")
    for i in range(16):
        hat, colour, scene = HAT[1 + i % 3], colours[-1 - i % len(colours)], scenes[i % len(scenes)]
        yield _prompt("hat", i, f"a photo of {who} wearing {with_article(colour)} {hat} {scene}")
    for i, scene in enumerate(scenes[:8]):
        yield _prompt("drawing", i, f"a pencil drawing of {who} {scene}")


def style_prompts(style: str) -> Iterable[dict[str, str]]:
    rng = random.Random(f"prompts/{style}")
    for i in range(52):
        yield _prompt("style", i, caption(draw_person(rng, style=style), rng, complete=True))


def _prompt(category: str, number: int, words: str) -> dict[str, str]:
    return {"id": f"{category}-{number:02d}", "category": category, "prompt": words}


def write_imagefolder(folder: Path, rows: Iterable[tuple[Person, str]], seed: str, token: str | None = None) -> None:
    """With `token`, a second column of captions has it in the place of the name, for textual inversion."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, (person, words) in enumerate(rows):
        name = f"{i:02d}.png"
        render(person, draw_view(random.Random(f"{seed}/{i}"))).save(folder / name, optimize=True)
        row = {"file_name": name, "text": words}
        if token is not None:
            row["token_text"] = words.replace(token.strip("<>"), token)
        lines.append(json.dumps(row) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", type=Path)
    configs = parser.parse_args().configs
    write_imagefolder(configs / "miniature" / "kestrel", character_captions("kestrel"), "kestrel", "<kestrel>")
    write_imagefolder(configs / "miniature" / "blueprint", style_captions("blueprint"), "blueprint")
    write_jsonl(configs / "prompts" / "kestrel.jsonl", character_prompts("kestrel"))
    write_jsonl(configs / "prompts" / "kestrel-token.jsonl", character_prompts("<kestrel>"))
    write_jsonl(configs / "prompts" / "blueprint.jsonl", style_prompts("blueprint"))


if __name__ == "__main__":
    main()
