"""`sdxl-flows push`: a run's weights with model card and report, as a folder and on the hub."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from eval.stated import StatedLineage
from sdxl_core.config import Precision, SamplingConfig
from sdxl_core.disk import refuse_existing
from sdxl_core.export_config import ExportConfig
from sdxl_core.picture_settings import PictureSettings
from tasks.card import CardFacts, Sample, model_card
from tasks.errors import ConfigError
from tasks.exports import LORA_FILE, Wanted, export_finished
from tasks.finished import Finished, find_finished, said_of
from tasks.manifest import Json, Ref
from tasks.references import AT, TRAINED
from tasks.report import REPORT_FILE
from tasks.runs import report_files
from tasks.store import ArtifactStore

KOHYA_FILE = "kohya_lora.safetensors"
_NEEDED = ("report", "images/base", "images/candidate")
_SAMPLES = 4


@dataclass(frozen=True)
class Upload:
    """What is to be uploaded, and as what."""

    run: str
    repository: str
    dtype: Precision | None = None
    with_report: bool = True
    said: Sequence[str] = field(default=())
    """`export.KEY=VALUE`."""


def push(store: ArtifactStore, wanted: Upload, private: bool, to: Path | None) -> str:
    """Make the folder, in `to` or where nobody sees it, and upload it; returns its address on the hub.

    Raises:
        UserError: as `prepare_upload` and `upload` do.
    """
    check_repository(wanted.repository)
    require_token()
    with TemporaryDirectory() as unseen:
        folder = to or Path(unseen) / "upload"
        prepare_upload(store, wanted, folder)
        return upload(folder, wanted.repository, private)


def prepare_upload(store: ArtifactStore, wanted: Upload, folder: Path) -> list[tuple[str, int]]:
    """Fill the new folder `folder` with what is to be uploaded; returns its files' names and sizes.

    Raises:
        UserError: the run has not finished with a report, its weights cannot be written, or `folder` is not empty.
    """
    check_repository(wanted.repository)
    refuse_existing(folder)
    if AT in wanted.run:
        fix = "`sdxl-flows export RUN@STEP` writes a step's weights."
        expected = "a run's name: the model card is of its report, which judged its result"
        raise ConfigError.about("push", expected=expected, got=repr(wanted.run), fix=fix)
    finished = find_finished(store, wanted.run)
    if missing := [label for label in _NEEDED if label not in finished.refs]:
        raise ConfigError(f"{wanted.run}: no finished run has its {missing[0]}, of which a card is made; `run` it")
    _require_result_judged(store, finished)
    write_model_folder(store, finished, wanted, folder)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in found]


def write_model_folder(store: ArtifactStore, finished: Finished, wanted: Upload, folder: Path) -> None:
    """Weights, model card with pictures and, if wanted, the report."""
    said = said_of(finished.config, wanted.said)
    files = _write_weights(store, finished, said, wanted.dtype, folder)
    samples = _copy_samples(store, finished, folder / "samples")
    if wanted.with_report:
        shutil.copyfile(store.path(finished.refs["report"]) / REPORT_FILE, folder / REPORT_FILE)
        files[REPORT_FILE] = "the whole comparison, with every number's interval; opens offline"
    card = model_card(_facts(store, finished, wanted.repository, said, samples, files))
    (folder / "README.md").write_text(card, encoding="utf-8")


def _require_result_judged(store: ArtifactStore, finished: Finished) -> None:
    """Raises ConfigError where the report is of something else than the weights that would be pushed."""
    report = finished.refs["report"]
    made = store.manifest(report.kind, report.key)
    judged = made.recipe.params["names"]["candidate"] if made is not None else TRAINED
    if judged != TRAINED:
        expected = "a report that judges what is pushed, the training's result"
        fix = "Run it with evaluation.candidate=trained, and without evaluation.candidates"
        raise ConfigError.about(finished.name, expected=expected, got=f"one of {judged}", fix=fix)


def upload(folder: Path, repository: str, private: bool) -> str:
    """Put the folder on the hub, in one commit; returns its address. The token is that of `hf auth login` or HF_TOKEN.

    Raises:
        ConfigError: the hub cannot be reached or does not let it.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        address = str(hub.create_repo(repository, private=private or None, exist_ok=True))
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Weights, model card and report")
    except Exception as error:  # the library lets errors of its HTTP client through, whichever that is
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(f"push: the hub did not take {repository}: {type(error).__name__}: {reason}") from error
    return address


def require_token() -> None:
    """Raises ConfigError where the hub's own library finds none; nothing here ever sees it."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise ConfigError("push: no token of the hub's; get one by `hf auth login`, or set HF_TOKEN")


def check_repository(repository: str) -> None:
    """Raises ConfigError for what cannot be the name of a repository on the hub."""
    part = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
    if not re.fullmatch(f"{part}/{part}", repository) or re.search(r"--|\.\.", repository):
        raise ConfigError.about("--repo", expected="user/name, as on the hub", got=repr(repository))


def _write_weights(
    store: ArtifactStore, finished: Finished, said: ExportConfig, dtype: Precision | None, folder: Path
) -> dict[str, str]:
    """Both LoRA files, or the whole model; returns what they are, by file."""
    if not (finished.folder / LORA_FILE).is_file():
        export_finished(store, finished, Wanted("diffusers", dtype), said, folder)
        return {"model_index.json": "the whole model in diffusers' layout"}
    export_finished(store, finished, Wanted("diffusers", dtype), said, folder / LORA_FILE)
    export_finished(store, finished, Wanted("kohya", dtype), said, folder / KOHYA_FILE)
    return {LORA_FILE: "the LoRA in diffusers' layout", KOHYA_FILE: "the same LoRA for ComfyUI, A1111 and kohya"}


def _copy_samples(store: ArtifactStore, finished: Finished, folder: Path) -> list[Sample]:
    """The first of the pairs that the report drew at random, not the best of all."""
    from eval.images import read_image_set

    _, figures = report_files(store, finished.refs["report"])
    sets = {
        side: {image.key: image for image in read_image_set(store.path(finished.refs[f"images/{side}"]))}
        for side in ("base", "candidate")
    }
    keys = [(str(prompt), int(replicate)) for prompt, replicate in figures["gallery"]["sample"]]
    shared = [key for key in keys or sorted(sets["base"]) if key in sets["base"] and key in sets["candidate"]]
    folder.mkdir(parents=True)
    samples = []
    for place, key in enumerate(shared[:_SAMPLES]):
        names = {side: f"{place}-{side}.png" for side in sets}
        for side, name in names.items():
            shutil.copyfile(sets[side][key].path, folder / name)
        image = sets["candidate"][key]
        assert image.seed is not None, "a training's pictures are drawn here"
        base, candidate = (f"{folder.name}/{names[side]}" for side in ("base", "candidate"))
        own = PictureSettings.model_validate(image.own_settings)
        samples.append(Sample(image.prompt, image.seed, base, candidate, own))
    if not samples:
        raise ConfigError(f"{finished.name}: its report compares no pictures that both sides have")
    return samples


def _facts(
    store: ArtifactStore,
    finished: Finished,
    repository: str,
    said: ExportConfig,
    samples: Sequence[Sample],
    files: dict[str, str],
) -> CardFacts:
    report: Ref = finished.refs["report"]
    summary, figures = report_files(store, report)
    model = finished.model
    assert model is not None, "a report shows its configuration, which names a model"
    dataset = finished.config.get("dataset") or {}
    return CardFacts(
        name=finished.name,
        repository=repository,
        lora_file=LORA_FILE if LORA_FILE in files else None,
        other_files=files,
        said=said,
        model=model,
        sampling=_sampling(finished),
        summary=summary.partition("\n")[2],
        samples=samples,
        training=finished.facts,
        instance_prompt=dataset.get("prompt"),
        stages=_stages(finished.name, figures["provenance"]),
    )


def _stages(name: str, section: Json) -> list[tuple[str, str, str]]:
    try:
        stated = StatedLineage.model_validate(section).artifacts
    except ValueError:
        raise ConfigError(f"{name}: its report is another version's; `report` makes it again") from None
    return [(one.label, one.artifact, one.content) for one in stated]


def _sampling(finished: Finished) -> SamplingConfig:
    try:
        return SamplingConfig.model_validate(finished.config.get("sampling") or {})
    except ValidationError as error:
        raise ConfigError(f"{finished.name}: the sampling that its report names is unreadable: {error}") from None
