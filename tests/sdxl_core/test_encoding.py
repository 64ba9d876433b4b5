"""Encoding as a pipeline: nothing depends on company, order or threads, and memory does not grow with the dataset."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from sdxl_core.ahead import Behind, in_order
from sdxl_core.config import CaptionsConfig, TransformConfig
from sdxl_core.data.buckets import Size
from sdxl_core.data.records import Record, read_records, write_records
from sdxl_core.data.transform import variants
from sdxl_core.latents import LatentEncoder, encode_latents
from sdxl_core.model import load_vae
from sdxl_core.tensor_files import RowFile, pack
from sdxl_core.text import encode_text

from .conftest import write_portraits

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def encode(
    dataset: Path, model: Path, out: Path, *, rows: int | None = None, device: str = "cpu", flip: bool = False
) -> dict[str, dict[str, torch.Tensor]]:
    """-> each picture's tensors by its digest."""
    encode_latents(
        transform=TransformConfig(resolution_px=64, flip=flip),
        dataset=dataset,
        vae=model / "vae",
        vae_digest="v",
        out=out,
        cells={},
        device=device,
        rows=rows,
    )
    index = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    tensors = load_file(out / "latents.safetensors")
    return {row["image_sha256"]: {n: t[i] for n, t in tensors.items()} for i, row in enumerate(index)}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("rows", "flip"), [(None, False), (4, False), (4, True), (3, True)])
def test_a_pictures_latents_do_not_depend_on_its_company(
    random_sdxl: Path, tmp_path: Path, rows: int | None, flip: bool, device: str
) -> None:
    """To the last bit: alone, among all, and among all in another order; also where a picture spans two batches."""
    dataset = write_portraits(tmp_path / "all", 6, seed=11)
    records = read_records(dataset)
    together = encode(dataset, random_sdxl, tmp_path / "together", rows=rows, flip=flip, device=device)
    write_records(dataset, [records[i] for i in (4, 5, 0, 2, 1, 3)])
    turned = encode(dataset, random_sdxl, tmp_path / "turned", rows=rows, flip=flip, device=device)
    write_records(dataset, [records[1]])
    alone = encode(dataset, random_sdxl, tmp_path / "alone", rows=rows, flip=flip, device=device)
    for others in (turned, alone):
        for sha256, tensors in others.items():
            assert all(torch.equal(value, together[sha256][name]) for name, value in tensors.items())


def test_latents_are_the_bits_of_one_plain_encode_each(random_sdxl: Path, tmp_path: Path) -> None:
    """What caches held before there were batches and threads."""
    dataset = write_portraits(tmp_path / "data", 3, seed=12)
    vae, transform = load_vae(random_sdxl / "vae", torch.device("cpu")), TransformConfig(resolution_px=64)
    encoded = encode(dataset, random_sdxl, tmp_path / "out")
    for record in read_records(dataset):
        [view] = variants(Image.open(dataset / record.image).convert("RGB"), Size(64, 64), record.sha256, transform)
        with torch.no_grad():
            posterior = vae.encode(torch.from_numpy(view.pixels_CHW)[None]).latent_dist
        assert torch.equal(encoded[record.sha256]["mean_NVCHW"][0], posterior.mean[0])
        assert torch.equal(encoded[record.sha256]["std_NVCHW"][0], posterior.std[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [None, 4])
def test_a_captions_embedding_does_not_depend_on_its_company(
    random_sdxl: Path, tmp_path: Path, rows: int | None, device: str
) -> None:
    """Nor do longer captions beside it, which have batches of their own."""
    long = ", ".join(f"a small detail of number {i}" for i in range(40))

    def encode_all(texts: list[str], out: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        encode_text(
            datasets=[],
            model=random_sdxl,
            model_digest="m",
            out=tmp_path / out,
            cells={},
            captions=CaptionsConfig(max_chunks=2),
            extra=texts,
            device=device,
            rows=rows,
        )
        tensors = load_file(tmp_path / out / "text.safetensors")
        known = json.loads((tmp_path / out / "captions.json").read_text())["texts"]
        lengths = tensors["lengths_U"].tolist()
        return {t: (tensors["text_USE"][i, : lengths[i]], tensors["pooled_UP"][i]) for i, t in enumerate(known)}

    texts = [f"a photo of person {i}" for i in range(6)]
    together, alone = encode_all([*texts, long], "together"), encode_all(texts[3:4], "alone")
    assert len(together[long][0]) > len(together[texts[0]][0])
    for text, tensors in alone.items():
        assert all(torch.equal(a, b) for a, b in zip(tensors, together[text], strict=True))


def test_each_different_picture_goes_through_the_vae_once(
    random_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more picture among many is one encode, counted at the encoder; a copy of it is none."""
    seen: list[int] = []
    real = LatentEncoder.__call__

    def counted(self: LatentEncoder, pictures: list[list[object]]) -> list[dict[str, torch.Tensor]]:
        seen.append(len(pictures))
        return real(self, pictures)  # type: ignore[arg-type]

    monkeypatch.setattr(LatentEncoder, "__call__", counted)
    cells: dict[str, bytes] = {}

    def run(dataset: Path) -> dict[str, int]:
        transform, vae = TransformConfig(resolution_px=64), random_sdxl / "vae"
        out = tmp_path / f"out-{len(seen)}"
        return encode_latents(transform=transform, dataset=dataset, vae=vae, vae_digest="v", out=out, cells=cells)

    assert run(write_portraits(tmp_path / "nine", 9, seed=13)) | {"variants": 0} == {
        "pictures": 9,
        "variants": 0,
        "encoded": 9,
        "reused": 0,
    }
    ten = write_portraits(tmp_path / "ten", 10, seed=13)
    records = read_records(ten)
    write_records(ten, [*records, records[-1]])
    assert sum(seen) == 9
    summary = run(ten)
    assert (summary["pictures"], summary["encoded"], summary["reused"], sum(seen)) == (11, 1, 10, 10)


class Operations(TorchDispatchMode):
    """Names of the operations of whoever enters it; it sees one thread's alone."""

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def test_threads_beside_the_encoders_compute_nothing_by_torch(
    random_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the encoders' threads would wait for theirs: see `Stages`."""
    inside: set[str] = set()
    real = ThreadPoolExecutor.submit

    def watched(self: ThreadPoolExecutor, work: Any, *args: Any, **kwargs: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            with Operations(inside):
                return work(*args, **kwargs)

        ours = work.__module__.startswith("sdxl_core")  # transformers loads weights by threads, too
        return real(self, run if ours else work, *args, **kwargs)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", watched)
    dataset = write_portraits(tmp_path / "data", 3, seed=14)
    encode(dataset, random_sdxl, tmp_path / "latents")
    encode_text(
        datasets=[dataset],
        model=random_sdxl,
        model_digest="m",
        out=tmp_path / "text",
        cells={},
        captions=CaptionsConfig(max_chunks=2),
        extra=["a dog", ", ".join(f"detail {i}" for i in range(40))],
        device="cpu",
    )
    views = {"detach", "alias", "view", "select", "slice", "unsqueeze", "as_strided", "lift_fresh"}
    assert inside and {name.removeprefix("aten::").split(".")[0] for name in inside} <= views


def test_rows_make_the_librarys_own_file(tmp_path: Path) -> None:
    """In whatever order they are put, by several threads."""
    torch.manual_seed(0)
    stacked = {"b": torch.randn(7, 2, 3), "a_longer_name": torch.randn(7, 5), "lengths": torch.arange(7)}
    save_file(stacked, tmp_path / "whole.safetensors")
    file = RowFile(tmp_path / "rows.safetensors", 7)
    rows = ((i, {name: value[i] for name, value in stacked.items()}) for i in (3, 0, 6, 5, 1, 2, 4))
    assert len(list(in_order(lambda row: file.put(*row), rows, workers=3))) == 7
    file.close()
    assert (tmp_path / "rows.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_memory_does_not_grow_with_the_latents(tmp_path: Path) -> None:
    """2,000 cached pictures of 8 kB each are put together while less than 1.5 kB a picture is held."""
    count, shape = 2000, (1, 4, 16, 16)
    cell = pack({"mean": torch.zeros(shape), "std": torch.ones(shape), "time_ids": torch.zeros(1, 6)})

    class Filled(dict[str, bytes]):
        def get(self, key: str, default: object = None) -> bytes:  # type: ignore[override]
            return bytes(bytearray(cell))  # bytes of its own, as from a disk

    digests = [f"{i:064x}" for i in range(count)]
    write_records(tmp_path, (Record(f"images/{d}.png", d, 128, 128, "a photo", None, d[-6:]) for d in digests))
    tracemalloc.start()
    try:
        summary = encode_latents(
            transform=TransformConfig(resolution_px=128),
            dataset=tmp_path,
            vae=tmp_path,
            vae_digest="v",
            out=tmp_path / "out",
            cells=Filled(),
            device="cpu",
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert summary["reused"] == count
    assert (tmp_path / "out" / "latents.safetensors").stat().st_size > 8000 * count
    assert peak < 1500 * count


def test_work_ahead_is_in_order_and_bounded() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            begun.append(i)
            yield i

    results = in_order(lambda i: i * i, items(), workers=3, ahead=5)
    assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
    assert len(begun) <= 4 + 5
    assert list(results) == [i * i for i in range(4, 100)]


def test_an_error_ahead_is_raised_at_its_place() -> None:
    results = in_order(lambda i: 1 // (3 - i), range(10), workers=4)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_behind_stops_what_follows_and_is_raised() -> None:
    done: list[int] = []
    gate = threading.Event()

    def piece(i: int) -> None:
        gate.wait(10)
        if i == 1:
            raise KeyboardInterrupt
        done.append(i)

    with pytest.raises(KeyboardInterrupt), Behind(most=5) as behind:
        for i in range(4):
            behind.add(lambda i=i: piece(i))  # type: ignore[misc]
        gate.set()
    assert done == [0]
