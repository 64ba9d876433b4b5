"""A prepared dataset as a folder that others load, and that folder on the Hugging Face hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sdxl_core.data.records import Record, read_records
from sdxl_core.data.sources.imagefolder import METADATA
from sdxl_core.errors import UserError

CARD = "README.md"
MASKS = "masks"
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


def write_imagefolder(dataset: Path, out: Path, title: str) -> dict[str, int]:
    """Write a dataset artifact as an imagefolder: pictures, masks, metadata.jsonl and a dataset card.

    Pictures keep their bytes and lose their names, which may tell of the place they came from; they are called by their
    digests. Returns {"pictures", "bytes"}.

    Raises:
        UserError: there is something in `out` already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError.about(f"--to {out}", expected="a new or empty folder", got="one with something in it")
    records = read_records(dataset)
    lines, taken = [], set[str]()
    for record in records:
        name = _free_name(record.image, taken)
        _copy(dataset / record.image, out / name)
        line: dict[str, Any] = {"file_name": name, "text": record.text}
        if record.mask is not None and record.mask != record.image:
            line["mask_file_name"] = _mask_name(name, record.mask)
            _copy(dataset / record.mask, out / line["mask_file_name"])
        lines.append(line | _columns(record, records))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (out / METADATA).write_text(text, encoding="utf-8", newline="\n")
    (out / CARD).write_text(_card(records, title), encoding="utf-8", newline="\n")
    return {"pictures": len(records), "bytes": sum(f.stat().st_size for f in out.rglob("*") if f.is_file())}


def require_token() -> None:
    """Raises UserError where nobody is logged in to the hub."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError("prepare-dataset push: nobody is logged in to the hub; run `hf auth login` or set HF_TOKEN")


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Make `folder` the content of the hub dataset `repo`, in one commit; returns the dataset's address.

    The dataset is created, `private` or public, if it is not there. Pictures of earlier pushes go.

    Raises:
        UserError: the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    api = HfApi()
    try:
        address = api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repo,
            repo_type="dataset",
            commit_message="Dataset prepared by sdxl-flows",
            delete_patterns=["images/*", f"{MASKS}/*"],
        )
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        got = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError.about(f"--repo {repo}", expected="a dataset that you may write (user/name)", got=got) from None
    return str(address)


def _free_name(image: str, taken: set[str]) -> str:
    """`image`, or a name like it: a picture that is listed twice, with two captions, has a file for each."""
    path, number, name = PurePosixPath(image), 1, image
    while name in taken:
        number += 1
        name = path.with_stem(f"{path.stem}-{number}").as_posix()
    taken.add(name)
    return name


def _mask_name(picture: str, mask: str) -> str:
    """Where `dataset.masks: ./masks` looks for a picture's mask."""
    return (MASKS / PurePosixPath(picture).with_suffix(PurePosixPath(mask).suffix)).as_posix()


def _columns(record: Record, records: Sequence[Record]) -> dict[str, Any]:
    """What some record tells, each tells."""
    columns: dict[str, Any] = {}
    if any(each.concept is not None for each in records):
        columns["concept"] = record.concept
    if any(each.face_box is not None for each in records):
        columns["face_box"] = None if record.face_box is None else list(record.face_box)
    return columns


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _card(records: Sequence[Record], title: str) -> str:
    """The dataset card: what it holds and the configuration that trains on it."""
    settings = {"source": "imagefolder", "path": "./folder"}
    told = _columns(records[0], records)
    settings |= {f"{column}_column": column for column in told}
    masks = {r.mask == r.image for r in records if r.mask is not None}
    if masks:
        settings["masks"] = "alpha" if masks == {True} else f"./folder/{MASKS}"
    size = next((name for limit, name in _SIZES.items() if len(records) < limit), "n>1M")
    described = "".join(f"  {key}: {value}\n" for key, value in settings.items())
    concepts = sorted({r.concept for r in records if r.concept is not None})
    shown = f"\nConcepts: {', '.join(concepts)}.\n" if concepts else ""
    return (
        f"---\ntask_categories:\n- text-to-image\nsize_categories:\n- {size}\n---\n# {title}\n\n"
        f"{len(records)} pictures with captions, as an imagefolder (`{METADATA}`), prepared by sdxl-flows.\n{shown}\n"
        f"To train on a copy of it in `./folder`:\n\n```yaml\ndataset:\n{described}```\n"
    )
