"""`sdxl-flows prepare-dataset`: what can be done with a dataset apart from training on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import console
from flows.cli_runs import ConfigFile, Overrides
from flows.groups import group

app = group("Prepare a dataset, and give it to others.")


@app.command("check")
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Look at every picture of CONFIG's dataset and tell what it holds; nothing is written, but the mirror of a
    bucket.

    What a run would refuse is named all at once, with exit code 2: bad pictures, and bad preference pairs by kind.

    Example: `sdxl-flows prepare-dataset check my.yaml`
    """
    from tasks.dataset_check import check_dataset
    from tasks.yaml_config import read_config

    check_dataset(read_config(config, overrides or []), console.out)


@app.command("push")
def push(
    config: ConfigFile,
    repo: Annotated[str | None, typer.Option(metavar="USER/NAME", help="Dataset of the hub to upload to.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the hub's dataset as a private one.")] = False,
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write here what would be uploaded.")] = None,
    overrides: Overrides = None,
) -> None:
    """Upload the dataset of CONFIG to the Hugging Face hub: checked pictures, captions, masks and a dataset card.

    It is an imagefolder, which this project and `datasets` load; preference pairs are a folder that source `pairs`
    reads. Pictures keep their bytes and lose their file names. Look at it first with --to. The hub knows you by
    `hf auth login` or HF_TOKEN.

    Examples: `sdxl-flows prepare-dataset push my.yaml --to ./published`,
    `sdxl-flows prepare-dataset push my.yaml --repo me/my-dog --private`
    """
    from tasks.publish import push_dataset
    from tasks.yaml_config import read_config

    place = push_dataset(read_config(config, overrides or []), repo, private=private, to=to)
    console.out(f"dataset: {place}")
