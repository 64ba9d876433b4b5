"""Benchmarks run, and write what they found to its place. Nothing here looks at a time."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks.common import table, write_section


def test_a_section_is_written_again_in_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n<!-- begin b -->\n<!-- end b -->\nafter\n")
    write_section("b", r"two \1 lines", page)
    write_section("c", "at the end", page)
    write_section("b", "one line", page)
    assert page.read_text() == (
        "# Page\n<!-- begin b -->\none line\n<!-- end b -->\nafter\n\n<!-- begin c -->\nat the end\n<!-- end c -->\n"
    )


def test_a_table_has_as_many_columns_in_every_line() -> None:
    lines = table(["a", "b", "c"], [["x", 1, 2], ["y", 3, 4]]).splitlines()
    assert len(lines) == 4 and {line.count("|") for line in lines} == {4}


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[1] / "benchmarks").glob("[!_]*.py")), ids=lambda file: file.stem
)
def test_every_benchmark_still_finds_what_it_measures(file: Path) -> None:
    import_module(f"benchmarks.{file.stem}")


@pytest.mark.ci
def test_scoring_does_nothing_twice(tmp_path: Path) -> None:
    """What is decoded, passed through CLIP (eight pictures at a time) and encoded, counted."""
    from benchmarks.evaluate import measure, world

    place = world(tmp_path, images=20, side_px=32, clip="miniature", device=torch.device("cpu"))
    done = [(work.decoded, work.passes, work.prompts) for work in measure(place).values()]
    assert done == [(20, 3, 0), (20, 3, 20), (20, 3, 20), (80, 12, 60), (0, 0, 0), (20, 0, 0), (0, 0, 0), (1, 1, 1)]


@pytest.mark.slow
def test_training_steps_are_measured_beside_their_floors() -> None:
    """The real trainer, two rounds of each; a faster path is compared with the eager float32 floor, too."""
    line = [sys.executable, "-m", "benchmarks.train", "--size", "miniature", "--method", "lora", "--rounds", "2"]
    line += ["--device", "cpu", "--reference", "--variant", "half: training.precision=bf16"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in done.stdout.splitlines() if row[:1] == "|"][2:]
    assert [row[0] for row in rows] == [
        "lora, micro-batch 2",
        "lora, micro-batch 2, half",
        "script that encodes in every step, lora, micro-batch 2",
    ]
    assert all(float(row[3]) > 0 and float(row[4]) > 0 and row[7] for row in rows)


@pytest.mark.ci
@pytest.mark.parametrize("method", ["dpo-lora", "dpo-full"])
def test_the_floor_of_pairs_has_the_references_passes(method: str, tmp_path: Path) -> None:
    """Whether the frozen UNet is the trained one without its adapter, or a copy: one pass of two pairs a step."""
    from benchmarks.floor import Beside
    from benchmarks.sizes import MINIATURE, SIZES, cached_inputs
    from benchmarks.steps import Bench, Row, configuration, job_of, take_steps

    cpu = torch.device("cpu")
    inputs = cached_inputs(SIZES["miniature"], MINIATURE, tmp_path / "inputs")
    bench = Bench("miniature", cpu, MINIATURE, inputs, tmp_path, 1, time.perf_counter)
    row = Row(method, 2)
    beside = Beside(1, 1, bench.clock, None)
    take_steps(job_of(bench, configuration(row, [], cpu), tmp_path), beside)
    assert [len(args[0]) for args, _ in beside.inputs] == [4]
    assert [len(args[0]) for args, _ in beside.frozen_inputs] == [4]


def test_what_has_no_floor_is_refused() -> None:
    from benchmarks.train import main

    with pytest.raises(SystemExit, match="needs a GPU"):
        main(["--size", "sdxl", "--device", "cpu"])
