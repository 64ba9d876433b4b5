"""The commands that make weight files: export, merge, extract, resize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import console
from flows.cli_artifacts import Store, open_store

Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write; nothing may be there yet.")]
Dtype = Annotated[
    Literal["fp32", "fp16", "bf16"] | None, typer.Option(help="Number format of the weights; default: as they are.")
]
LoraFormat = Annotated[
    Literal["kohya", "diffusers"], typer.Option("--format", help="Layout of the LoRA; every program reads kohya's.")
]
Variant = Annotated[str | None, typer.Option(help="Weight variant of a model, such as fp16.")]
Said = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="export.KEY=VALUE", help="Say something in the header, such as export.license=mit."),
]
Like = Annotated[str | None, typer.Option(metavar="MODEL", help="The model the LoRA is for, if not SDXL itself.")]
ModelOption = typer.Option(metavar="MODEL", help="Hub id, or a folder beginning with ./")


def export(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|ARTIFACT|FILE",
            help="A run's name or train/KEY, with @STEP one of its exported steps; or a LoRA file.",
        ),
    ],
    out: Out,
    form: Annotated[
        Literal["diffusers", "kohya", "single-file"], typer.Option("--format", help="Layout; see docs/weights.md.")
    ],
    dtype: Dtype = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The base model; default: what the run's configuration names.")
    ] = None,
    variant: Variant = None,
    said: Said = None,
    store: Store = None,
) -> None:
    """Write what a training made, or a LoRA file, as another program loads it, with a full header.

    A LoRA comes as `diffusers` or `kohya`; a full fine-tune as a `diffusers` folder or as `single-file`, the layout of
    ComfyUI and A1111, with the base's text encoders and VAE.

    Examples: `sdxl-flows export my-dog --format kohya --dtype fp16 --out my-dog.safetensors`,
    `sdxl-flows export my-dog@1200 --format kohya --out my-dog-1200.safetensors`,
    `sdxl-flows export train/1f3a --format single-file --dtype fp16 --out model.safetensors`
    """
    from tasks.exports import Wanted
    from tasks.exports import export as write
    from tasks.weight_tools import named_model

    wanted = Wanted(form, dtype, named_model(base, variant) if base else None, tuple(said or ()))
    opened = None if what.endswith(".safetensors") else open_store(store)
    write(opened, what, wanted, out)
    console.out(str(out))


def merge(
    lora: Annotated[list[str], typer.Option(metavar="FILE[:WEIGHT]", help="A LoRA and its weight. Repeatable.")],
    out: Out,
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="Merge into this model's weights.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Cut the merged LoRA down to this rank.")] = None,
    like: Like = None,
    form: LoraFormat = "kohya",
    dtype: Dtype = None,
    variant: Variant = None,
    said: Said = None,
) -> None:
    """Merge LoRAs into a model, or several LoRAs into one.

    With --base, the result is a model: a single file if OUT ends in .safetensors, else a diffusers folder. Without, it
    is one LoRA that does exactly what all do together; its rank is the sum of theirs, unless --rank cuts it down.

    Examples: `sdxl-flows merge --base ./sdxl --lora dog.safetensors:0.8 --out dog-model`,
    `sdxl-flows merge --lora a.safetensors:0.7 --lora b.safetensors:0.3 --rank 32 --out both.safetensors`
    """
    from tasks.errors import ConfigError
    from tasks.weight_tools import Writing, merge_into_base, merge_loras, named_model, retained_rows
    from tasks.weighted_files import weighted_files

    writing = Writing(out, form, dtype, tuple(said or ()))
    files = weighted_files(lora)
    if base is not None:
        if rank is not None or like is not None:
            raise ConfigError("--rank and --like belong to merging LoRAs into one, without --base")
        merge_into_base(named_model(base, variant), files, writing)
    else:
        model = named_model(like, variant) if like else None
        retained = merge_loras(files, rank, model, writing)
        console.table(retained_rows(retained) if retained else [])
    console.out(str(out))


def extract(
    base: Annotated[str, ModelOption],
    tuned: Annotated[str, ModelOption],
    rank: Annotated[int, typer.Option(min=1, help="Of linear layers and 1x1 convolutions, at most.")],
    out: Out,
    conv_rank: Annotated[
        int | None, typer.Option(min=1, help="Of larger convolutions, at most; default: they are left out.")
    ] = None,
    min_energy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Keep only as many directions as retain this share.")
    ] = None,
    form: LoraFormat = "kohya",
    dtype: Dtype = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    variant: Variant = None,
    said: Said = None,
) -> None:
    """Make a LoRA of what a full fine-tune changed, and say how much of it the LoRA holds.

    Every weight's difference is cut to the nearest one of its rank. Shares are of the squared norm, of each module and
    of the whole difference, parts that no LoRA can hold included.

    Example: `sdxl-flows extract --base ./sdxl --tuned ./my-model --rank 64 --min-energy 0.95 --out mine.safetensors`
    """
    from tasks.weight_tools import Ranks, Writing, named_model, retained_rows
    from tasks.weight_tools import extract as find

    writing = Writing(out, form, dtype, tuple(said or ()))
    ranks = Ranks(rank, conv_rank, min_energy)
    retained = find(named_model(base, variant), named_model(tuned, variant), ranks, device, writing)
    console.table(retained_rows(retained))
    console.out(str(out))


def resize(
    file: Annotated[Path, typer.Argument(help="A LoRA file.")],
    out: Out,
    rank: Annotated[int | None, typer.Option(min=1, help="At most this rank.")] = None,
    energy: Annotated[float | None, typer.Option(min=0, max=1, help="The fewest directions that retain it.")] = None,
    like: Like = None,
    form: LoraFormat = "kohya",
    dtype: Dtype = None,
    said: Said = None,
) -> None:
    """Cut a LoRA down to a lower rank, the nearest there is, and say how much of it is left.

    Example: `sdxl-flows resize big.safetensors --energy 0.9 --dtype fp16 --out small.safetensors`
    """
    from tasks.weight_tools import Writing, named_model, retained_rows
    from tasks.weight_tools import resize as cut

    model = named_model(like) if like else None
    retained = cut(file, rank, energy, model, Writing(out, form, dtype, tuple(said or ())))
    console.table(retained_rows(retained))
    console.out(str(out))


def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The name of a finished run.")],
    repo: Annotated[str, typer.Option(metavar="USER/NAME", help="Repository on the hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make it a private one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only write the folder; upload nothing.")] = False,
    to: Annotated[Path | None, typer.Option(help="Write the folder here, and leave it.")] = None,
    with_report: Annotated[
        bool, typer.Option("--report/--no-report", help="Upload report.html, which shows training pictures too.")
    ] = True,
    dtype: Dtype = None,
    said: Said = None,
    store: Store = None,
) -> None:
    """Upload a run's weights to the Hugging Face hub, with a model card made from its report.

    The card holds the verdict with its intervals, pictures beside the base's, code that loads the weights, settings and
    digests. The token is that of `hf auth login` or HF_TOKEN.

    Examples: `sdxl-flows push my-dog --repo me/my-dog --dry-run --to ./look`, then
    `sdxl-flows push my-dog --repo me/my-dog --private --set export.license=openrail++`
    """
    from tasks.errors import ConfigError
    from tasks.push import Upload, prepare_upload
    from tasks.push import push as put

    wanted = Upload(run, repo, dtype, with_report, tuple(said or ()))
    opened = open_store(store)
    if not dry_run:
        console.out(put(opened, wanted, private, to))
        return
    if to is None:
        raise ConfigError("--dry-run: expected --to FOLDER, where the folder is written")
    console.table([(name, console.size(size)) for name, size in prepare_upload(opened, wanted, to)])
    console.out(f"{to}: would be uploaded to {repo}")
