"""What a reference names, by which digests it is known, and what is refused before anything loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import save_file

from sdxl_core.errors import UserError
from sdxl_core.unet_shapes import unet_shapes
from tasks.additions import LocalFiles
from tasks.experiment import prepare_experiment, require_candidate_trained
from tasks.references import parse_reference
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config
from tests.tasks.conftest import Prepare, candidate
from tests.tasks.test_experiment import write_lora
from tests.tasks.toy import UNET, write_experiment, write_pictures

LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_experiment(tmp_path / "toy").parent
    write_lora(folder / "My LoRA.safetensors", 1.0)
    write_lora(folder / "style.safetensors", 2.0)
    return folder


def test_a_lora_is_its_bytes_and_its_scale(prepare: Prepare, folder: Path) -> None:
    one = candidate(prepare("./My LoRA.safetensors:0.8"))
    assert [(added.name, added.kind, added.scale) for added in one.added] == [("My LoRA x 0.8", "lora", 0.8)]
    shutil.copyfile(folder / "My LoRA.safetensors", folder / "again.safetensors")
    other = candidate(prepare("again.safetensors:0.80"))
    first, second = (found.added[0].source for found in (one, other))
    assert isinstance(first, LocalFiles) and isinstance(second, LocalFiles)
    assert first.digests == second.digests and first.place != second.place
    assert prepare("./My LoRA.safetensors").name == "toy-my-lora"
    assert prepare("./My LoRA.safetensors:0.8 + style.safetensors:-1").name == "toy-my-lora-x-0-8-style-x-1"


def test_every_term_of_a_sum_is_relative_to_its_configuration(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = "./style.safetensors:0.5 + trained + ./My LoRA.safetensors"
    document = (folder / "toy.yaml").read_text().replace("evaluation:\n", f"evaluation:\n  candidate: {reference}\n")
    (folder / "sum.yaml").write_text(document)
    found = read_config(folder / "sum.yaml", []).evaluation.candidate
    assert found == f"{folder}/style.safetensors:0.5 + trained + {folder}/My LoRA.safetensors"
    monkeypatch.chdir(folder)
    shown = prepare_experiment(read_config(folder / "sum.yaml"), ArtifactStore(tmp_path / "store"), "c").shown_config
    assert shown["evaluation"]["candidate"] == reference


def test_a_folder_with_a_lora_is_its_file(prepare: Prepare, folder: Path) -> None:
    (folder / "dog").mkdir()
    shutil.copyfile(folder / "style.safetensors", folder / "dog" / LORA)
    found = candidate(prepare("./dog")).added[0].source
    assert isinstance(found, LocalFiles) and found.place == folder / "dog" / LORA


def test_a_checkpoint_takes_the_place_of_the_base(prepare: Prepare, folder: Path) -> None:
    shutil.copytree(folder / "sdxl", folder / "other")
    found = candidate(prepare("./other + ./style.safetensors"))
    assert found.base.folder == folder / "other" and [one.name for one in found.added] == ["style"]
    assert candidate(prepare("base")).base.folder == folder / "sdxl"


def write_sd15(path: Path) -> None:
    stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    save_file({f"{stem}.lora_down.weight": np.zeros((4, 768)), f"{stem}.lora_up.weight": np.zeros((3072, 4))}, path)


def write_misfit(path: Path) -> None:
    """All modules of the base, one of them for a layer of another width."""
    write_lora(path)
    name = next(name for name in unet_shapes(UNET) or {} if name.endswith("to_q.weight")).removesuffix(".weight")
    from safetensors.numpy import load_file

    tensors = load_file(path)
    tensors[f"unet.{name}.lora_A.weight"] = np.zeros((2, 99), np.float32)
    save_file(tensors, path)


REFUSED = {
    "./nowhere.safetensors": r"expected an existing LoRA file.*got .*nowhere",
    "./stile.safetensors": r"Did you mean 'style\.safetensors'\?",
    "./style.safetensors:heavy": r"expected a model, or several joined by ' \+ '.*got '.*style\.safetensors:heavy'",
    "./style.safetensors:nan": r"each perhaps with a scale",
    " + ./style.safetensors": r"expected a model",
    "./pickle.safetensors": r"expected a safetensors file, got other bytes",
    "./sd15.safetensors": r"expected a LoRA for this base.*lora_te_text.*looks like one of Stable Diffusion 1",
    "./misfit.safetensors": r"unet\.\S*to_q has shapes \[2, 99\] and \[4, 2\], for a layer of \[4, 4\]",
    "./whole.safetensors": r"a whole checkpoint in .*Convert the single file",
    "./loha.safetensors": r"hada_w1_a in .*, of another kind of adapter",
    "./empty": r"expected a checkpoint, a LoRA .*, a bundle or pictures, got none of them in .*empty",
    "base:0.5": r"a base without a scale",
    "./sdxl:0.5": r"a checkpoint without a scale",
    "./sdxl + ./sdxl": r"expected one checkpoint",
    "./pictures:0.5": r"a folder of pictures by itself",
    "./pictures": r"expected one picture for every prompt and replicate, got .*3 missing: p0-0, p1-0, p2-0",
    "trianed": r"trianed: expected the name of a finished run.*a local path begins with",
    "train/12ab": r"no artifact",
    "org/name": r"evaluation\.candidate: cannot get 'org/name' from the hub",
    "org/name/dog.safetensors@v2:0.5": r"cannot get 'org/name' from the hub",
    "not a hub id/x": r"expected base, trained, a local path, a hub id",
}


@pytest.mark.parametrize("reference", REFUSED)
def test_what_is_no_model_is_refused_with_the_nearest_remedy(
    prepare: Prepare, folder: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (folder / "pickle.safetensors").write_bytes(b"a pickle, say")
    write_sd15(folder / "sd15.safetensors")
    write_misfit(folder / "misfit.safetensors")
    save_file({"model.diffusion_model.out.2.weight": np.zeros(1)}, folder / "whole.safetensors")
    save_file({"lora_unet_x.hada_w1_a": np.zeros(1)}, folder / "loha.safetensors")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=REFUSED[reference]) as error:
        prepare(reference)
    assert str(error.value).startswith("evaluation.candidate")


def test_a_hub_s_checkpoint_and_its_lora_are_told_apart(
    prepare: Prepare, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is downloaded first: small files alone; links to blobs, as the hub's cache has them."""
    asked: list[tuple[str, str | None, list[str]]] = []
    hub = folder / "hub"
    (hub / "style").mkdir(parents=True)
    (hub / "style" / LORA).symlink_to(folder / "style.safetensors")
    shutil.copytree(folder / "sdxl", hub / "whole")

    def download(repository: str, revision: str | None, allow_patterns: list[str], **_: object) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(hub / repository.partition("/")[2])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = candidate(prepare("org/style@v2:0.5"))
    assert found.name == "org/style@v2 x 0.5" and found.added[0].scale == 0.5
    assert [(name, revision) for name, revision, _ in asked] == [("org/style", "v2")]
    assert all("*" not in pattern for pattern in asked[0][2])
    assert candidate(prepare("org/whole")).base.folder == hub / "whole"
    (hub / "nothing").mkdir()
    with pytest.raises(UserError, match=r"none of them\. Name the file: org/nothing/FILE\.safetensors"):
        prepare("org/nothing")


def test_a_run_judges_what_it_trains(prepare: Prepare) -> None:
    require_candidate_trained(prepare("trained:0.5 + ./style.safetensors").config)
    with pytest.raises(UserError, match=r"evaluation\.candidate: expected trained, got .*`sdxl-flows evaluate` judges"):
        require_candidate_trained(prepare("./style.safetensors").config)


def test_pictures_are_known_by_their_bytes(prepare: Prepare, folder: Path) -> None:
    write_pictures(folder / "given", 3)
    (folder / "given" / "metadata.jsonl").unlink()
    for number in range(3):
        (folder / "given" / f"{number}.png").rename(folder / "given" / f"p{number}.png")
    experiment = prepare("./given")
    assert experiment.name == "toy-given" and experiment.lesson is None


def test_a_file_s_own_colon_is_not_a_scale(tmp_path: Path) -> None:
    (tmp_path / "a:1.safetensors").touch()
    (tmp_path / "b:0.5").touch()
    for name, expected in {"a:1.safetensors": 1.0, "a:1.safetensors:0.5": 0.5, "b:0.5": 1.0}.items():
        (term,) = parse_reference(str(tmp_path / name), "x")
        assert term.scale == expected
