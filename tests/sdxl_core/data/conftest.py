"""Small real datasets, one for each source that reads local files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import settings
from PIL import Image

from sdxl_core.config import DatasetConfig

settings.register_profile("steady", deadline=None, derandomize=True)  # the machine may be busy; failures must repeat
settings.load_profile("steady")

Photo = Callable[..., Path]

CAPTIONS = {"ann.png": "a photo of ann", "people/bob.png": "bob, smiling", "people/cleo.png": "cleo 🙂\nin the rain"}
PARQUET_TEXTS = [*CAPTIONS.values()]


def png(size: tuple[int, int] = (6, 4), color: object = (200, 30, 60)) -> bytes:
    """A one-coloured PNG file's bytes."""
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")  # type: ignore[arg-type]
    return stream.getvalue()


@pytest.fixture
def photo() -> Photo:
    """Writes a one-coloured PNG, with the folders above it."""

    def write(path: Path, size: tuple[int, int] = (6, 4), color: tuple[int, int, int] = (200, 30, 60)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(size, color))
        return path

    return write


def _pictures(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png((6 + number, 4), (number, 100, 0)))


def _imagefolder(root: Path) -> DatasetConfig:
    _pictures(root, [*CAPTIONS])
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in CAPTIONS.items()]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return DatasetConfig(source="imagefolder", path=str(root))


def _prompt(root: Path) -> DatasetConfig:
    _pictures(root, [*CAPTIONS])
    return DatasetConfig(source="prompt", path=str(root), prompt="a photo of sks")


def _captions(root: Path) -> DatasetConfig:
    _pictures(root, [*CAPTIONS])
    for name, text in CAPTIONS.items():
        (root / name).with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    return DatasetConfig(source="captions", path=str(root))


def _concepts(root: Path) -> DatasetConfig:
    _pictures(root, ["a red dog/1.png", "a red dog/poses/2.png", "cat/1.png"])
    (root / "cat/prompt.txt").write_text("a photo of a sleepy cat\n")
    return DatasetConfig(source="concepts", path=str(root))


def _parquet(root: Path) -> DatasetConfig:
    root.mkdir(parents=True)
    cells = [{"bytes": png((6 + n, 4), (n, 100, 0)), "path": f"{n}.png"} for n in range(3)]
    table = pyarrow.table({"image": cells, "text": PARQUET_TEXTS})
    pyarrow.parquet.write_table(table.slice(0, 2), root / "part-0.parquet")
    pyarrow.parquet.write_table(table.slice(2), root / "part-1.parquet")
    return DatasetConfig(source="parquet", path=str(root))


BUILDERS: dict[str, Callable[[Path], DatasetConfig]] = {
    "imagefolder": _imagefolder,
    "prompt": _prompt,
    "captions": _captions,
    "concepts": _concepts,
    "parquet": _parquet,
}


@pytest.fixture
def build() -> Callable[[str, Path], DatasetConfig]:
    """Builds the three-picture dataset of a source in a new folder."""
    return lambda source, root: BUILDERS[source](root)


@pytest.fixture(params=list(BUILDERS))
def local_source(request: pytest.FixtureRequest) -> str:
    """Each source that reads local files."""
    return str(request.param)
