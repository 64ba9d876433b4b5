"""Where a dataset's masks lie. Importing this loads no decoder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from sdxl_core.config import DatasetConfig
from sdxl_core.data.sources.base import list_folder
from sdxl_core.errors import UserError


def mask_files(config: DatasetConfig) -> tuple[Path, list[str]] | None:
    """The folder of masks and the files in it, where masks come from a folder."""
    if config.masks in (None, "alpha"):
        return None
    root = Path(str(config.masks)).expanduser()
    return root, [name for names in masks_by_stem(root).values() for name in names]


def masks_by_stem(root: Path) -> dict[str, list[str]]:
    """Name without its ending -> the pictures of that name in the folder. Raises UserError as `list_folder`."""
    folder = list_folder(root, "dataset.masks")
    if folder.problems:
        raise UserError(f"dataset.masks: {folder.problems[0].where}: {folder.problems[0].reason}")
    names: dict[str, list[str]] = {}
    for name in folder.pictures:
        names.setdefault(stem_of(name), []).append(name)
    return names


def stem_of(name: str) -> str:
    """`people/ann.png` -> `people/ann`."""
    return PurePosixPath(name).with_suffix("").as_posix()
