"""From a folder of pictures to cached tensors: exactly what a change concerns is made again, and what is damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file

import sdxl_core.miniature
from sdxl_core.config import DatasetConfig, TransformConfig
from sdxl_core.data.fingerprint import dataset_fingerprint
from sdxl_core.data.prepare import prepare_dataset
from sdxl_core.latents import encode_latents
from sdxl_core.text import encode_text
from tasks.cells import DiskCells
from tasks.digests import FileDigests

SDXL = Path(sdxl_core.miniature.__file__).parent / "weights" / "sdxl"


def write_bmp(path: Path, color: tuple[int, int, int]) -> None:
    """Uncompressed, so that another colour is another file of the same size."""
    Image.new("RGB", (24, 16), color).save(path, "BMP")


@dataclass
class Chain:
    """The stages `dataset`, `latents` and `text` over one folder, with caches that last."""

    root: Path
    runs: int = 0

    @property
    def pictures(self) -> Path:
        return self.root / "pictures"

    @property
    def config(self) -> DatasetConfig:
        return DatasetConfig(source="captions", path=str(self.pictures))

    def fingerprint(self) -> str:
        return dataset_fingerprint(self.config, FileDigests(self.root / "digests.sqlite").many)

    def cells(self, name: str) -> DiskCells:
        return DiskCells(self.root / name)

    def run(self, vae_digest: str = "v", model_digest: str = "m", **transform: object) -> tuple[int, int]:
        """-> pictures and captions that had to be encoded."""
        self.runs += 1
        out = self.root / f"run-{self.runs}"
        prepare_dataset(self.config, out / "dataset")
        latents = encode_latents(
            transform=TransformConfig.model_validate({"resolution_px": 16, **transform}),
            dataset=out / "dataset",
            vae=SDXL / "vae",
            vae_digest=vae_digest,
            out=out / "latents",
            cells=self.cells("latents"),
            device="cpu",
        )
        text = encode_text(
            datasets=[out / "dataset"],
            model=SDXL,
            model_digest=model_digest,
            out=out / "text",
            cells=self.cells("text"),
            device="cpu",
        )
        return latents["encoded"], text["encoded"]

    def made(self) -> dict[str, bytes]:
        """The newest run's tensors."""
        out = self.root / f"run-{self.runs}"
        return {path.name: path.read_bytes() for path in out.rglob("*.safetensors")}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    chain = Chain(tmp_path)
    chain.pictures.mkdir()
    for number in range(3):
        write_bmp(chain.pictures / f"{number}.bmp", (number, 0, 0))
        (chain.pictures / f"{number}.txt").write_text(f"a photo of person {number}")
    assert chain.run() == (3, 4)  # three captions, and the empty one
    assert chain.run() == (0, 0)
    return chain


def edit_in_place(chain: Chain) -> None:
    """Another picture in a file of the same size and time."""
    path = chain.pictures / "1.bmp"
    before = path.stat()
    write_bmp(path, (9, 9, 9))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def edit_caption(chain: Chain) -> None:
    (chain.pictures / "1.txt").write_text("a photo of somebody else")


def swap_captions(chain: Chain) -> None:
    first, second = (chain.pictures / f"{number}.txt" for number in range(2))
    words = first.read_text(), second.read_text()
    first.write_text(words[1]), second.write_text(words[0])


@pytest.mark.parametrize(
    ("edit", "encoded"), [(edit_in_place, (1, 0)), (edit_caption, (0, 1)), (swap_captions, (0, 0))]
)
def test_an_edit_costs_what_it_concerns(chain: Chain, edit: Callable[[Chain], None], encoded: tuple[int, int]) -> None:
    before = chain.fingerprint()
    edit(chain)
    assert chain.fingerprint() != before, "the stage `dataset` runs again"
    assert chain.run() == encoded


@pytest.mark.parametrize(
    ("change", "encoded"),
    [
        ({"vae_digest": "w"}, (3, 0)),
        ({"model_digest": "n"}, (0, 4)),
        ({"resolution_px": 24}, (3, 0)),
        ({"crop": "random"}, (3, 0)),
        ({"crop": "random", "crops_per_image": 2}, (3, 0)),
        ({"flip": True}, (3, 0)),
    ],
)
def test_a_setting_costs_what_it_concerns(chain: Chain, change: dict[str, object], encoded: tuple[int, int]) -> None:
    before = chain.fingerprint()
    assert chain.run(**change) == encoded  # type: ignore[arg-type]
    assert chain.run() == (0, 0), "what was there before is still there"
    assert chain.fingerprint() == before


@pytest.mark.parametrize(("name", "encoded"), [("latents", (1, 0)), ("text", (0, 1))])
@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied"])
def test_a_damaged_cell_is_made_again_and_never_used(
    chain: Chain, name: str, encoded: tuple[int, int], harm: str
) -> None:
    before = chain.made()
    key = next(iter(chain.cells(name)))
    cell = chain.root / name / key[:2] / key
    data = cell.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    cell.write_bytes({"cut": data[:middle], "flipped": flipped, "emptied": b""}[harm])
    assert chain.run() == encoded
    after = chain.made()
    assert after["latents.safetensors"] == before["latents.safetensors"]
    for tensor, value in load(before["text.safetensors"]).items():  # encoded alone now, in a batch of four before
        assert torch.equal(load(after["text.safetensors"])[tensor], value)


ODD = [
    "x" * 10_000,
    "مرحبا بالعالم",
    "👩‍👩‍👧 🙂",
    "<script>alert(1)</script>",
    "two\nlines",
    "{0} %s {prompt} {{x}}",
    " ",
]


def test_odd_captions_are_trained_as_they_are_or_refused_by_name(chain: Chain) -> None:
    for number, text in enumerate(ODD):
        write_bmp(chain.pictures / f"odd-{number}.bmp", (number, 1, 1))
        (chain.pictures / f"odd-{number}.txt").write_text(text, encoding="utf-8")
    write_bmp(chain.pictures / "mute.bmp", (0, 2, 2))
    with pytest.raises(
        ValueError, match=r"2 entries cannot be used:\n  mute\.bmp: no caption .*\n  odd-6\.bmp: .*empty"
    ):
        chain.run()
    for name in ("mute.bmp", "odd-6.bmp"):
        (chain.pictures / name).unlink()
    assert chain.run() == (6, 6)
    out = chain.root / f"run-{chain.runs}" / "text"
    captions = json.loads((out / "captions.json").read_text(encoding="utf-8"))["texts"]
    assert captions[0] == "" and {*ODD[:-1]} < {*captions}
    text_USE = load_file(out / "text.safetensors")["text_USE"]
    assert text_USE.isfinite().all() and len({row.numpy().tobytes() for row in text_USE}) == len(captions)
