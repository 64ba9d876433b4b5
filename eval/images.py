"""Reading image sets (generated pictures) and datasets (instance pictures)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.errors import EvalError, NotScored

if TYPE_CHECKING:
    from PIL import Image

RECORDS = "records.jsonl"
PICTURE_SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Picture:
    """A picture file; `identity` is a digest of its content, by which caches know it."""

    path: Path
    identity: str

    def load(self) -> Image.Image:
        """Decode to RGB. Raises NotScored when there is no readable picture."""
        return open_rgb(self.path)


@dataclass(frozen=True)
class GeneratedImage(Picture):
    """A picture of an image set; `identity` is the digest of its decoded pixels."""

    prompt_id: str
    prompt: str
    category: str
    replicate: int
    seed: int
    storyboard: str = ""
    """Which one it is a frame of."""
    frame: int = 0
    """Its place there, from 1 on."""
    own_settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """How it was drawn otherwise than the set says."""

    @property
    def key(self) -> tuple[str, int]:
        """What pairs it with the other model's picture."""
        return self.prompt_id, self.replicate

    def load(self) -> Image.Image:
        """Decode to RGB. Raises NotScored when unreadable, EvalError when the pixels are not those recorded."""
        image = super().load()
        if (found := pixel_digest(image)) != self.identity:
            raise EvalError(
                f"{self.path.name}: {RECORDS} of its image set gives digest {self.identity[:12]}, the picture has "
                f"{found[:12]}. The set was changed after it was made; generate it again."
            )
        return image


def pixel_digest(image: Image.Image) -> str:
    """Digest of an RGB picture's pixels, whatever file format carried them."""
    return hashlib.sha256(f"RGB,{image.width},{image.height},".encode() + image.tobytes()).hexdigest()


def open_rgb(path: Path) -> Image.Image:
    """Decode any picture to upright 8-bit RGB: 16 bits are scaled, transparency is laid on white.

    Raises NotScored when there is no readable picture.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as stored:
            upright = ImageOps.exif_transpose(stored)
            upright.load()
    except FileNotFoundError:
        raise NotScored("picture file missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as problem:
        raise NotScored(f"picture unreadable: {type(problem).__name__}") from problem
    if upright.mode.startswith("I"):  # 16-bit grey => 8-bit
        grey_HW = np.asarray(upright, dtype=np.float64) / 257
        upright = Image.fromarray(np.clip(np.rint(grey_HW), 0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return upright.convert("RGB")


def read_image_set(folder: Path) -> tuple[GeneratedImage, ...]:
    """The records of an image set, in their order. Raises EvalError naming the line that is wrong."""
    images: dict[tuple[str, int], GeneratedImage] = {}
    for place, line in _records(folder):
        try:
            image = GeneratedImage(
                path=folder / line["file"],
                identity=line["image_sha256"],
                prompt_id=str(line["prompt_id"]),
                prompt=line["prompt"],
                category=line.get("category") or "",
                replicate=int(line["replicate"]),
                seed=int(line["seed"]),
                storyboard=line.get("storyboard", ""),
                frame=int(line.get("frame", 0)),
                own_settings=_own_settings(line),
            )
        except KeyError as missing:
            raise EvalError(f"{place}: no field {missing}; it has {sorted(line)}") from None
        if image.key in images:
            raise EvalError(f"{place}: prompt {image.prompt_id!r}, replicate {image.replicate} is there twice")
        images[image.key] = image
    return tuple(images.values())


def _own_settings(line: Mapping[str, Any]) -> dict[str, Any]:
    negative = {"negative_prompt": line["negative_prompt"]} if "negative_prompt" in line else {}
    return {**negative, **line.get("settings", {})}


def read_references(folder: Path) -> tuple[Picture, ...]:
    """The pictures of a dataset artifact, each once, in their order. Raises EvalError when there is none."""
    try:
        paths = {line["sha256"]: folder / line["image"] for _, line in _records(folder)}
    except KeyError as missing:
        raise EvalError(f"{folder.name}/{RECORDS}: a line has no field {missing}; expected a dataset") from None
    if not paths:
        raise EvalError(f"{folder.name}/{RECORDS}: the dataset has no picture to compare with")
    return tuple(Picture(path, digest) for digest, path in paths.items())


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder and of those below it, by their suffixes; hidden ones are left out."""
    visible = (path for path in folder.rglob("*") if not any(p.startswith(".") for p in path.relative_to(folder).parts))
    return sorted(path for path in visible if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())


def read_folder(folder: Path, field: str) -> tuple[Picture, ...]:
    """The pictures of any folder, each once, in an order that their bytes decide.

    Raises:
        EvalError: there is none; it names `field`.
    """
    files = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in picture_files(folder)}
    if not files:
        raise EvalError(f"{field}: no picture in {folder.name}; expected {', '.join(sorted(PICTURE_SUFFIXES))}")
    return tuple(Picture(files[digest], digest) for digest in sorted(files))


def read_left_out(folder: Path) -> list[dict[str, str]]:
    """{where, reason} of every picture that a dataset artifact was made without."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return list(summary.get("left_out", []))


def _records(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    path = folder / RECORDS
    if not path.is_file():
        raise EvalError(f"{folder.name}: expected {RECORDS} in it; this is neither an image set nor a dataset")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        place = f"{folder.name}/{RECORDS} line {number}"
        try:
            record = json.loads(line)
        except ValueError as problem:
            raise EvalError(f"{place}: not JSON ({problem})") from None
        if not isinstance(record, dict):
            raise EvalError(f"{place}: expected a JSON object, got {type(record).__name__}")
        yield place, record
