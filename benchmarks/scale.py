"""What the store costs at sizes that do not fit here: `python -m benchmarks.scale [--parts keys,packs] [--tenth]`.

Real where this machine can do it (keys, manifests, look-ups, the index of packs, requests counted), and a simulation of
what it cannot (`benchmarks.fleet`). Prints the tables of docs/scale.md. `--tenth` does a tenth of everything.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import fleet
from sdxl_core.tensor_files import cell_key
from tasks.manifest import FileRecord, Manifest, Recipe, Ref, content_digest
from tasks.shared import packs
from tasks.shared.objects import Objects
from tasks.stage import Call, Job, Stage, materialise
from tasks.store import ArtifactStore, StorePlace

SIZES = {"keys": 10_000_000, "artifacts": 5_000, "lookups": 1_000_000, "files": 1_000_000, "cells": 10_000_000}


@contextmanager
def told(what: str, count: int) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    print(f"| {what} | {count:,} | {seconds:.1f} s | {seconds / count * 1e6:.3g} µs |", flush=True)


def keys(sizes: dict[str, int]) -> None:
    """Of artifacts, and of cells: pictures by model, prompt, seed and settings."""
    dataset = Ref(kind="dataset", key="0" * 32, digest=hashlib.sha256(b"data").hexdigest())
    params = {"transform": {"resolution_px": 1024, "flip": 0.5}, "vae": "f" * 64}
    with told("artifact keys", count := sizes["keys"] // 10):
        for number in range(count):
            _ = Recipe(kind="latents", code="3", params={**params, "n": number}, inputs={"dataset": dataset}).key
    drawn = {"steps": 30, "guidance": 5.0, "width_px": 1024, "height_px": 1024, "scheduler": "euler"}
    with told("keys of pictures", count := sizes["keys"]):
        for number in range(count):
            cell_key(what="picture", version=2, model="f" * 64, prompt="a photo of a dog", seed=number, sampling=drawn)


def manifests(sizes: dict[str, int]) -> None:
    """One of a million files."""
    records = {f"{n // 1000:04d}/{n:07d}.png": _record(n) for n in range(sizes["files"])}
    with told("files digested to one content digest", len(records)):
        digest = content_digest(records)
    recipe = Recipe(kind="dataset", code="1", params={}, inputs={})
    manifest = Manifest(
        recipe=recipe,
        key=recipe.key,
        label="dataset",
        digest=digest,
        files=records,
        summary={},
        libraries={},
        seconds=0.0,
        created="",
    )
    with told("files written as one manifest", len(records)):
        text = manifest.model_dump_json(indent=1)
    with told("files read from one manifest", len(records)):
        Manifest.model_validate_json(text)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\nThat manifest has {len(text) / 1e6:.0f} MB; the process took {peak_gb:.1f} GB at most.\n")


def _record(number: int) -> FileRecord:
    return FileRecord(hashlib.sha256(b"%d" % number).hexdigest(), number)


def lookups(sizes: dict[str, int]) -> None:
    """In a store of many small artifacts."""
    with tempfile.TemporaryDirectory() as place:
        _look_up(ArtifactStore(Path(place)), sizes)


def _look_up(store: ArtifactStore, sizes: dict[str, int]) -> None:
    refs = []
    with told("artifacts of one small file committed, flushed to the disk", sizes["artifacts"]):
        for number in range(sizes["artifacts"]):
            refs.append(materialise(small(number), store, "cpu"))
    rng = random.Random(0)
    with told("look-ups of artifacts, at random", sizes["lookups"]):
        for _ in range(sizes["lookups"]):
            ref = rng.choice(refs)
            assert store.find(ref.kind, ref.key) == ref
    with told("manifests listed", len(refs)):
        assert sum(1 for _ in store.manifests()) == len(refs)


def write_one(job: Job) -> dict[str, object]:
    (job.out / "n").write_text(str(job.params["n"]))
    return {}


SMALL = Stage(kind="small", version="1", build=write_one, heavy=False)


def small(number: int) -> Call:
    return Call(SMALL, "small", {"n": number}, {})


def pack_index(sizes: dict[str, int]) -> None:
    """What a machine remembers of which pack has which cell."""
    count, in_a_pack = sizes["cells"], 20
    with tempfile.TemporaryDirectory() as place:
        found = packs.Packs(Objects(f"file://{place}/store"), "images", Path(place))
        names = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(count)]
        with told("cells of packs remembered, 20 to a pack", count):
            for start in range(0, count, in_a_pack):
                found._remember(f"cells/images/packs/{start}", names[start : start + in_a_pack])
        rng = random.Random(0)
        with told("look-ups among them, at random", 100_000):
            for _ in range(100_000):
                assert found.holding(rng.choice(names)) is not None
        size = (Path(place) / "packs-images.sqlite").stat().st_size
    print(f"\nThe index takes {size / 1e6:.0f} MB on the disk, {size / count:.0f} bytes a cell.\n")


_BILLED = {"read": "GET", "read_part": "GET", "write": "PUT", "create": "PUT", "listed": "LIST"}


class Counted:
    """Counts what is asked of a file system, as S3 would bill it."""

    def __init__(self, objects: Objects) -> None:
        self.counts: Counter[str] = Counter()
        for method, kind in _BILLED.items():
            setattr(objects, method, self._counting(getattr(objects, method), kind))
        objects.sizes = self._listing(objects.sizes)  # type: ignore[method-assign]

    def _counting(self, ask: Callable[..., object], kind: str) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            self.counts[kind] += 1
            return ask(*arguments)

        return counted

    def _listing(self, ask: Callable[[str], dict[str, int]]) -> Callable[[str], dict[str, int]]:
        def counted(folder: str) -> dict[str, int]:
            found = ask(folder)
            self.counts["LIST"] += 1 + len(found) // 1000
            return found

        return counted

    def take(self) -> Counter[str]:
        taken, self.counts = self.counts, Counter()
        return taken


def requests(sizes: dict[str, int]) -> None:
    """Of the steps that runs are made of."""
    print("| step | GET | PUT | LIST |\n|---|---:|---:|---:|")
    for call in (many("train", 4), many("images", 1000)):
        with tempfile.TemporaryDirectory() as place:
            url = f"file://{place}/shared"
            one, two = (ArtifactStore.at(StorePlace(f"{place}/{who}", "auto", url)) for who in ("one", "two"))
            assert one.objects is not None and one.objects is two.objects
            counted = Counted(one.objects)
            ref = materialise(call, one, "cpu")
            row(f"build and send an artifact of {call.params['files']} files", counted.take())
            materialise(call, two, "cpu")
            row("find it on another machine", counted.take())
            two.path(ref)
            row("bring it there", counted.take())
            materialise(call, one, "cpu")
            row("find it where it was built", counted.take())


def row(what: str, counts: Counter[str]) -> None:
    print(f"| {what} | {counts['GET']} | {counts['PUT']} | {counts['LIST']} |", flush=True)


def write_many(job: Job) -> dict[str, object]:
    for number in range(job.params["files"]):
        (job.out / f"{number}.png").write_bytes(os.urandom(64))
    return {}


def many(name: str, files: int) -> Call:
    return Call(Stage(kind=name, version="1", build=write_many, heavy=False), name, {"files": files}, {})


PARTS: dict[str, Callable[[dict[str, int]], None]] = {
    "keys": keys,
    "manifests": manifests,
    "lookups": lookups,
    "packs": pack_index,
    "requests": requests,
    "fleet": lambda sizes: fleet.main(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--tenth", action="store_true")
    chosen = parser.parse_args()
    sizes = {name: size // 10 if chosen.tenth else size for name, size in SIZES.items()}
    for name in chosen.parts.split(","):
        print(f"\n### {name}\n")
        if name in ("keys", "manifests", "lookups", "packs"):
            print("| what | how many | time | each |\n|---|---:|---:|---:|")
        PARTS[name](sizes)


if __name__ == "__main__":
    main()
