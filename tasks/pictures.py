"""Stage `pictures`: a folder of pictures made elsewhere, as an image set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdxl_core.data.sources.base import PICTURE_SUFFIXES
from sdxl_core.data.sources.imagefolder import METADATA
from sdxl_core.given_pictures import Key, find_given_pictures, take_over_pictures
from sdxl_core.prompts import Prompt
from tasks.digests import FileDigests, digest_json
from tasks.manifest import Json
from tasks.prompt_sets import PromptSet
from tasks.stage import Call, Job, Stage


@dataclass(frozen=True)
class GivenPictures:
    """Pictures that somebody else's program drew."""

    name: str
    files: Mapping[Key, Path]
    digest: str
    """Of which picture is whose."""


def holds_pictures(folder: Path) -> bool:
    """Whether it is a folder of pictures rather than a model: nothing of a model, and a picture or a list of them."""
    if any(folder.glob("*.safetensors")) or any((folder / name).exists() for name in ("model_index.json", "unet")):
        return False
    if (folder / METADATA).is_file():
        return True
    return any(path.suffix.lower() in PICTURE_SUFFIXES for path in folder.glob("**/*"))


def find_pictures(folder: Path, name: str, drawn: PromptSet, digests: FileDigests, where: str) -> GivenPictures:
    """Raises UserError as `find_given_pictures` does."""
    files = find_given_pictures(folder, drawn.prompts, drawn.replicates, where)
    known = digests.many(files.values())
    return GivenPictures(
        name, files, digest_json(sorted([*key, found] for key, found in zip(files, known, strict=True)))
    )


def _build(job: Job) -> dict[str, Json]:
    files = {(prompt_id, replicate): Path(place) for prompt_id, replicate, place in job.local["files"]}
    prompts = tuple(Prompt.from_dict(prompt) for prompt in job.params["prompts"])
    return dict(take_over_pictures(files, prompts, job.out, job.progress))


STAGE = Stage(kind="pictures", version="1", build=_build, heavy=False)


def take_over(label: str, pictures: GivenPictures, drawn: PromptSet) -> Call:
    params = {"pictures": pictures.digest, "prompts": [prompt.as_dict() for prompt in drawn.prompts]}
    local = {"files": [[*key, str(path)] for key, path in pictures.files.items()]}
    return Call(STAGE, label, params, {}, local)
