"""The command line `sdxl-flows`. What a command needs is imported when it runs, so that help and plans come at once."""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows import (
    cli_ahead,
    cli_artifacts,
    cli_compare,
    cli_dataset,
    cli_doctor,
    cli_models,
    cli_prompts,
    cli_relabel,
    cli_retrain,
    cli_runs,
    cli_self_test,
    cli_serve,
    cli_slots,
    cli_sweep,
    cli_view,
    cli_weights,
    console,
)
from flows.groups import group

app = group(
    "Fine-tune Stable Diffusion XL, and know whether the result is better than the base.\n\n"
    "Every stage's result is kept under the digest of what it was made from, so nothing is ever computed twice.",
    name="sdxl-flows",
    epilog="First steps: `sdxl-flows run configs/miniature/dreambooth.yaml`, then open the report it names.",
)
app.command("run")(cli_runs.run)
app.command("plan")(cli_runs.plan)
app.command("evaluate")(cli_runs.evaluate)
app.command("compare")(cli_compare.compare)
app.command("report")(cli_runs.report)
app.command("sweep")(cli_sweep.sweep)
app.command("self-test")(cli_self_test.self_test)
app.command("relabel")(cli_relabel.relabel)
app.command("retrain")(cli_retrain.retrain)
app.command("cache")(cli_ahead.cache)
app.command("class-images")(cli_ahead.class_images)
app.command("view")(cli_view.view)
app.command("serve")(cli_serve.serve)
app.command("deploy")(cli_serve.deploy)
app.command("export")(cli_weights.export)
app.command("merge")(cli_weights.merge)
app.command("extract")(cli_weights.extract)
app.command("resize")(cli_weights.resize)
app.command("push")(cli_weights.push)
app.command("doctor")(cli_doctor.doctor)
app.command("slots")(cli_slots.slots)
app.command("prompts")(cli_prompts.prompts)
app.add_typer(cli_artifacts.app, name="artifacts")
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_dataset.app, name="prepare-dataset")


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.out(f"sdxl-flows {version('sdxl-flows')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None: ...


@app.command("make-metadata")
def make_metadata(
    directory: Annotated[Path, typer.Argument(help="Folder of pictures, sub-folders included.")],
    prompt: Annotated[str, typer.Option(help="The caption of every picture, to be edited afterwards.")],
    extend: Annotated[bool, typer.Option("--extend", help="Keep what is listed, add what is not.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file, captions and all.")] = False,
    image_column: Annotated[str, typer.Option(help="Key of the file name.")] = "file_name",
    caption_column: Annotated[str, typer.Option(help="Key of the caption.")] = "text",
) -> None:
    """Write metadata.jsonl into a folder of pictures, one line for each.

    Example: `sdxl-flows make-metadata my-dog --prompt "a photo of sks dog"`
    """
    from tasks.metadata import write_metadata

    written = write_metadata(directory, prompt, extend, overwrite, image_column, caption_column)
    console.out(f"{directory / 'metadata.jsonl'}: {written['added']} added, {written['kept']} kept")


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: standard output.")] = None,
) -> None:
    """Print the JSON Schema of configuration files, for editors.

    Example: `sdxl-flows schema -o sdxl-flows.schema.json`, and in the YAML's first line
    `# yaml-language-server: $schema=sdxl-flows.schema.json`
    """
    from tasks.config import schema_text

    if out is None:
        console.out(schema_text())
    else:
        out.write_text(schema_text() + "\n", encoding="utf-8")


EXIT_STOPPED = 75
"""As the trainer ends when it was asked to: what is done is saved."""


class Stopped(BaseException):
    """SIGTERM came: whatever runs is left, and the trainer, if one runs, saves on the way out."""


def _stop(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Stopped


def main() -> None:
    """The command's entry: what is for the user to know ends in one message and its exit code, without a traceback."""
    from tasks.secrets import log_to_stderr

    log_to_stderr()
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except Stopped:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except Exception as error:
        found = _for_user(error)
        if found is None:
            raise
        code, message = found
        from tasks.secrets import masked

        print(f"error: {masked(message)}", file=sys.stderr)
        sys.exit(code)


def _for_user(error: Exception) -> tuple[int, str] | None:
    """Exit code and message for an error that needs no traceback to be understood, or None."""
    from tasks.errors import EXIT_CODES

    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            return code, str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        full = f"the disk is full ({error.filename or 'store'})"
        return 2, f"{full}; `sdxl-flows artifacts gc` frees what no recent run needs"
    return None


if __name__ == "__main__":
    main()
