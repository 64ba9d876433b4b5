"""How a finished portrait is drawn: one filter per style of the world."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageFilter, ImageOps


def photo(picture: Image.Image) -> Image.Image:
    """The world as it is."""
    return picture


def pencil(picture: Image.Image) -> Image.Image:
    """Grey tones on paper under dark outlines."""
    grey = ImageOps.autocontrast(picture.convert("L"))
    tones = grey.point(lambda v: 150 + v * 105 // 255)
    return Image.composite(tones, Image.new("L", grey.size, 40), _lines(grey)).convert("RGB")


def blueprint(picture: Image.Image) -> Image.Image:
    """White outlines on blue paper."""
    grey = ImageOps.autocontrast(picture.convert("L"))
    paper = ImageOps.colorize(grey, black=(16, 50, 120), white=(40, 92, 178))
    return Image.composite(paper, Image.new("RGB", picture.size, (236, 244, 255)), _lines(grey))


def poster(picture: Image.Image) -> Image.Image:
    """Four flat inks, from violet to cream."""
    grey = ImageOps.posterize(ImageOps.autocontrast(picture.convert("L")), 2)
    return ImageOps.colorize(ImageOps.autocontrast(grey), black=(58, 12, 90), mid=(236, 72, 96), white=(255, 240, 200))


def _lines(grey: Image.Image) -> Image.Image:
    """A mask that is black where an outline runs."""
    edges = grey.filter(ImageFilter.GaussianBlur(0.6)).filter(ImageFilter.FIND_EDGES)
    mask = edges.point(lambda v: 255 - min(255, v * 4))
    mask.paste(255, (0, 0, grey.width, 1))
    mask.paste(255, (0, 0, 1, grey.height))
    mask.paste(255, (0, grey.height - 1, grey.width, grey.height))
    mask.paste(255, (grey.width - 1, 0, grey.width, grey.height))
    return mask


STYLE_FILTERS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "photo": photo,
    "pencil": pencil,
    "blueprint": blueprint,
    "poster": poster,
}
