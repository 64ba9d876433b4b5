"""Evaluations of whatever model is named, on the miniature: what is drawn, what is reused, and what is refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from flows.wiring import evaluate
from sdxl_core.config import ModelConfig
from sdxl_core.errors import UserError
from tasks.exports import Wanted, export
from tasks.manifest import Ref
from tasks.plan import Planner
from tasks.weight_tools import Writing, merge_into_base
from tasks.weighted_files import weighted_files
from tests.flows.short import LORA, PROMPTS, Evaluations
from tests.flows.test_pipeline import WEIGHTS

pytestmark = pytest.mark.ci

JUDGING = ["images/candidate", "scores", "comparison", "report"]


def farthest(evaluations: Evaluations, first: dict[str, Ref], second: dict[str, Ref]) -> int:
    """The largest difference between the candidates' pictures, in levels of 255."""
    folders = [evaluations.store.path(refs["images/candidate"]) / "images" for refs in (first, second)]
    pairs = [[Image.open(folder / f"{prompt['id']}-0.png").tobytes() for folder in folders] for prompt in PROMPTS]
    return max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_a_second_candidate_draws_and_scores_its_own_pictures_only(evaluations: Evaluations) -> None:
    pictures, scores = len(evaluations.store.cells("images")), len(evaluations.store.cells("scores"))
    refs = evaluations.run("./dog.safetensors:0.5")
    assert evaluations.built == JUDGING
    assert len(evaluations.store.cells("images")) == pictures + 2
    assert len(evaluations.store.cells("scores")) == scores + 4, "CLIP's two and SSIM's two; the base's are known"
    assert evaluations.run("./dog.safetensors:0.5") == refs and evaluations.built == []


def test_what_was_trained_is_the_same_by_all_its_names(evaluations: Evaluations) -> None:
    """The run's report again; by its artifact, its run, its last bundle and its folder no picture is drawn again."""
    expected = evaluations.run()
    assert evaluations.built == []
    known = len(evaluations.store.cells("images"))
    [manifest] = evaluations.store.manifests("train")
    bundles = sorted(evaluations.store.root.glob("trainings/*/bundles/step-*"))
    names = [f"train/{manifest.key[:9]}", "short", str(bundles[-1]), str(evaluations.trained())]
    for name in names:
        refs = evaluations.run(name)
        assert evaluations.drawn(refs) == evaluations.drawn(expected), name
    assert len(evaluations.store.cells("images")) == known
    assert evaluations.drawn(evaluations.run("./dog.safetensors")) == evaluations.drawn(expected)
    assert evaluations.run(str(bundles[0]))["images/candidate"] != expected["images/candidate"]
    assert evaluations.built == ["bundle/candidate", *JUDGING]
    assert evaluations.drawn(evaluations.run(str(bundles[0]))) != evaluations.drawn(expected)


def test_a_bundle_is_used_by_its_average(evaluations: Evaluations) -> None:
    """Byte for byte what the training left; and that is not its last weights."""
    bundle = max(evaluations.store.root.glob("trainings/*/bundles/step-*"))
    made = evaluations.store.path(evaluations.run(str(bundle))["bundle/candidate"])
    for name in (LORA, "kohya_lora.safetensors"):
        assert (made / name).read_bytes() == (evaluations.trained() / name).read_bytes()
    average, weights = (load_file(bundle / f"{name}.safetensors") for name in ("average", "weights"))
    assert any((average[name] != weights[name]).any() for name in average)


def test_the_base_against_itself_is_no_difference(evaluations: Evaluations) -> None:
    refs = evaluations.run("base")
    assert refs["images/candidate"] == refs["images/base"]
    found = evaluations.file(refs, "comparison", "comparison.json")
    assert {metric["delta"] for metric in found["judged"]} == {0}
    assert [metric["mean"] for metric in found["described"]] == [1]
    assert found["health"]["identical_pairs"] == 2
    assert "train" not in refs and evaluations.built == ["scores", "comparison", "report"]


def test_sums_do_not_depend_on_their_order_nor_on_places(evaluations: Evaluations) -> None:
    one = evaluations.run("./dog.safetensors:0.8 + ./style.safetensors:0.5")
    shutil.move(evaluations.folder / "style.safetensors", evaluations.folder / "other.safetensors")
    other = evaluations.run("./other.safetensors:0.5 + ./dog.safetensors:0.8")
    assert one["images/candidate"] == other["images/candidate"]
    assert farthest(evaluations, one, evaluations.run("./dog.safetensors:0.55")) <= 1, "style is dog at -0.5"
    assert farthest(evaluations, one, evaluations.run("./dog.safetensors:0.8")) > 1
    assert (
        evaluations.run("./dog.safetensors:1.0")["images/candidate"]
        == evaluations.run("./dog.safetensors")["images/candidate"]
    )
    assert (
        evaluations.run("trained:0.5 + base")["images/candidate"] == evaluations.run("trained:0.5")["images/candidate"]
    )


def test_a_merged_checkpoint_draws_nearly_what_its_lora_does(evaluations: Evaluations) -> None:
    lora = weighted_files([f"{evaluations.folder}/dog.safetensors:0.5"])
    merge_into_base(ModelConfig(base=f"{WEIGHTS}/sdxl"), lora, Writing(evaluations.folder / "merged", dtype="fp32"))
    merged, scaled = evaluations.run("./merged"), evaluations.run("./dog.safetensors:0.5")
    assert farthest(evaluations, merged, scaled) <= 3
    more = evaluations.run("./merged + ./style.safetensors")
    assert evaluations.drawn(more) != evaluations.drawn(merged)


def test_an_exported_full_fine_tune_is_drawn_and_has_no_scale(evaluations: Evaluations) -> None:
    full = "training.adapter={kind: full}"
    lower = "training.learning_rate=1e-4"
    trained = evaluations.run("trained", full, lower, "name=full", train=True)
    with contextlib.chdir(evaluations.folder):
        export(evaluations.store, str(trained["train"]), Wanted("diffusers", base=ModelConfig(base=f"{WEIGHTS}/sdxl")),
               evaluations.folder / "exported")  # fmt: skip
    assert evaluations.drawn(evaluations.run("./exported")) == evaluations.drawn(trained)
    for candidate in ("trained:0.7", f"{trained['train']}:0.7"):
        with pytest.raises(UserError, match=r"evaluation\.candidate: expected a scale of 1.*a full fine-tune"):
            evaluations.run(candidate, full, lower)


def test_two_candidates_against_each_other(evaluations: Evaluations) -> None:
    refs = evaluations.run("./dog.safetensors:0.5", "evaluation.baseline=trained")
    report = evaluations.file(refs, "report", "report.json")
    assert report["title"] == "short-dog-x-0-5-against-trained"
    page = (evaluations.store.path(refs["report"]) / "report.html").read_text()
    assert "candidate against trained" in page and "<th>trained</th>" in page and "the base" not in report["headline"]
    assert evaluations.drawn(refs, "base") == evaluations.drawn(evaluations.run())


def write_given(folder: Path, size: tuple[int, int] = (64, 64)) -> None:
    folder.mkdir()
    for number, prompt in enumerate(PROMPTS):
        Image.effect_noise(size, 40 + number).convert("RGB").save(folder / f"{prompt['id']}.png")


def test_pictures_made_elsewhere_are_judged_and_said_to_be(evaluations: Evaluations) -> None:
    write_given(evaluations.folder / "given")
    refs = evaluations.run("./given")
    assert evaluations.built == JUDGING
    report = evaluations.file(refs, "report", "report.json")
    sentence = "The pictures of the candidate were made elsewhere and not from the other side's noise"
    assert any(said.startswith(sentence) for said in report["summary"]) and report["same_noise"] is False
    page = (evaluations.store.path(refs["report"]) / "report.html").read_text()
    assert "were made elsewhere" in page and "same noise: base left" not in page
    renamed = evaluations.folder / "renamed"
    renamed.mkdir()
    lines = []
    for number, prompt in enumerate(PROMPTS):
        shutil.copyfile(evaluations.folder / "given" / f"{prompt['id']}.png", renamed / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "prompt": prompt["prompt"]}) + "\n")
    (renamed / "metadata.jsonl").write_text("".join(lines))
    assert evaluations.run("./renamed")["images/candidate"] == refs["images/candidate"]
    assert "elsewhere" not in json.dumps(evaluations.file(evaluations.run("base"), "report", "report.json")["summary"])


def test_pictures_of_another_size_have_no_ssim_and_a_report(evaluations: Evaluations) -> None:
    write_given(evaluations.folder / "given", (96, 48))
    refs = evaluations.run("./given", "evaluation.baseline=./dog.safetensors")
    found = evaluations.file(refs, "comparison", "comparison.json")
    [not_run] = found["not_run"]
    assert not_run["name"] == "ssim" and "sizes differ: 64x64 against 96x48" in not_run["reason"]
    assert found["judged"][0]["pairs"] == 2


def test_an_evaluation_that_trains_nothing_asks_for_nothing_of_a_training(evaluations: Evaluations) -> None:
    """Neither for what an optimizer needs, nor for latents."""
    shutil.rmtree(evaluations.store.root / "artifacts" / "latents")
    shutil.rmtree(evaluations.store.root / "artifacts" / "train")
    refs = evaluations.run("./dog.safetensors:0.25", "training.seed=5")
    assert set(refs) == {"dataset", "images/base", "images/candidate", "scores", "comparison", "report"}
    with pytest.raises(UserError, match="latents: not in the store for this configuration"):
        evaluations.run()
    assert evaluations.built == []


def test_a_plan_builds_nothing(evaluations: Evaluations) -> None:
    planner = Planner(evaluations.store)
    with contextlib.chdir(evaluations.folder):
        bundle = min(evaluations.store.root.glob("trainings/*/bundles/step-*"))
        evaluate(evaluations.prepare(f"{bundle}:0.5"), planner)
    to_run = [stage.label for stage in planner.stages if stage.action == "run"]
    assert to_run == ["bundle/candidate", *JUDGING]
    assert not list(evaluations.store.manifests("bundle"))
