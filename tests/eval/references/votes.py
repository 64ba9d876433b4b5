"""Votes of three people on toy pictures, counted line by line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from tests.eval.conftest import Toys
from tests.eval.references import Case

CHOICES = {
    (0, 0): ["base", "candidate", "candidate"],
    (0, 1): ["tie", "candidate"],
    (1, 0): ["tie"],
    (1, 1): ["base", "base", "tie"],
}
"""(prompt, replicate) -> what the first, second and third voter said."""


def digest(picture: np.ndarray) -> str:
    height, width, _ = picture.shape
    return hashlib.sha256(f"RGB,{width},{height},".encode() + picture.tobytes()).hexdigest()


def line(voter: str, base: str, candidate: str, choice: str, **more: object) -> str:
    fields = {"time": "2026-01-02T03:04:05Z", "voter": voter, "run": "toy", "prompt_id": "p0", "replicate": 0}
    pictures = {"prompt": "a person", "base_picture": base, "candidate_picture": candidate, "left": "base"}
    return json.dumps({**fields, **pictures, "choice": choice, **more}) + "\n"


def weights(folder: Path) -> dict[str, Path]:
    path, toys = folder / "votes.jsonl", Toys()
    lines = [
        line(f"voter {number}", digest(toys.paint(1)(*key)), digest(toys.paint(2)(*key)), choice)
        for key, choices in CHOICES.items()
        for number, choice in enumerate(choices)
    ]
    path.write_text("".join(lines))
    return {"file": path}


def reference(case: Case) -> float:
    mine, other = (digest(picture) for picture in case.pictures)
    marks = []
    for text in case.weights["file"].read_text().splitlines():
        vote = json.loads(text)
        if {vote["base_picture"], vote["candidate_picture"]} == {mine, other}:
            chosen = None if vote["choice"] == "tie" else vote[f"{vote['choice']}_picture"]
            marks.append({mine: 1.0, other: 0.0, None: 0.5}[chosen])
    return float(np.mean(marks))
