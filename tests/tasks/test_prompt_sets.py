"""`evaluation.prompts` and `evaluation.subject`, from the configuration to what is drawn; and the sets we ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from eval.config import PromptFormatName, PromptSetConfig
from flows.wiring import finetune
from sdxl_core.config import SamplingConfig
from sdxl_core.errors import UserError
from sdxl_core.prompt_sets import FORMATS, read_prompts
from tasks.errors import ConfigError
from tasks.experiment import Experiment, prepare_experiment
from tasks.manifest import Ref
from tasks.prompt_sets import chosen_prompts
from tasks.stage import Call, Handle
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config
from tests.sdxl_core.prompt_sets.published import PUBLISHED
from tests.tasks.toy import write_experiment

OURS = Path(__file__).parents[2] / "configs" / "prompts"
COUNTS = {"smoke": 24, "dev": 200}
TEMPLATES = ("character", "style", "portrait")


def prepared(folder: Path, *overrides: str) -> Experiment:
    config = folder / "toy" / "toy.yaml"
    if not config.exists():
        write_experiment(folder / "toy")
    return prepare_experiment(read_config(config, overrides), ArtifactStore(folder / "store"), "command")


def test_the_configuration_knows_every_format_and_no_other() -> None:
    assert set(get_args(PromptFormatName)) == set(FORMATS)


def test_a_path_and_a_section_with_it_mean_the_same(tmp_path: Path) -> None:
    plain = prepared(tmp_path)
    section = prepared(tmp_path, f"evaluation.prompts={{path: {tmp_path}/toy/prompts.jsonl}}")
    assert plain.looks == section.looks
    assert plain.shown_config["evaluation"]["prompts"].endswith("prompts.jsonl")


def test_places_in_a_section_are_relative_to_the_configuration(tmp_path: Path) -> None:
    config = write_experiment(tmp_path / "toy")
    section = "prompts: {path: ./prompts.jsonl, sample: 2, seed: 5}"
    config.write_text(config.read_text().replace("prompts: ./prompts.jsonl", section))
    assert len(prepared(tmp_path).looks[-1].prompts) == 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_sets_are_drawn_once_each(tmp_path: Path, name: str) -> None:
    (tmp_path / "published").mkdir()
    place, expected = PUBLISHED[name](tmp_path / "published")
    subject = ["evaluation.subject=a sks dog"] if name == "dreambooth" else []
    found = prepared(tmp_path, f"evaluation.prompts={{path: {place}, format: {name}}}", *subject).looks[-1].prompts
    assert len(found) == len({text for text, _ in expected})
    assert not any("{" in prompt.prompt for prompt in found)


MISTAKES = {
    "evaluation.prompts={path: ./x, format: prati}": r"evaluation\.prompts\.format: expected one of own.*'parti'",
    "evaluation.prompts={path: ./x, fromat: parti}": r"evaluation\.prompts\.fromat: unknown key.*Did you mean 'format'",
    "evaluation.prompts={format: parti}": r"evaluation\.prompts\.path: missing",
    "evaluation.prompts={path: PROMPTS, sample: 0}": r"evaluation\.prompts\.sample",
    "evaluation.prompts={path: PROMPTS, sample: 4}": "sample: expected at most 3",
    "evaluation.prompts={path: PROMPTS, categories: [x]}": "there is no 'x'",
    "evaluation.prompts={path: PROMPTS, split: train}": "split and revision are of hub datasets",
    "evaluation.prompts={path: x/y, format: hpd}": "expected a local file of format hpd, got 'x/y'",
    "evaluation.prompts=[x]": r"evaluation\.prompts",
    "evaluation.subject=a sks dog": "none of the 3 prompts",
    "evaluation.subject=' '": r"evaluation\.subject",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_prompts_that_cannot_be_had_are_refused_before_anything_runs(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match=MISTAKES[override]):
        prepared(tmp_path, override.replace("PROMPTS", f"{tmp_path}/toy/prompts.jsonl"))


def test_settings_that_do_not_go_with_the_configured_ones_are_refused(tmp_path: Path) -> None:
    write_experiment(tmp_path / "toy")
    row = {"prompt": "a cat", "id": "quiet", "settings": {"guidance_scale": 1.0}}
    (tmp_path / "toy" / "prompts.jsonl").write_text(json.dumps(row))
    assert prepared(tmp_path).looks[-1].prompts[0].settings.guidance_scale == 1.0
    with pytest.raises(UserError, match="prompt quiet, with sampling as configured"):
        prepared(tmp_path, "sampling.negative_prompt=snow")


def test_storyboards_are_chosen_whole(tmp_path: Path) -> None:
    place = str(OURS / "storyboards.yaml")
    found = chosen_prompts(PromptSetConfig(path=place, categories=("ferry",)), None)
    assert [prompt.id for prompt in found] == [f"ferry-{number:02d}" for number in range(1, 6)]
    with pytest.raises(ConfigError, match="tear storyboards apart"):
        chosen_prompts(PromptSetConfig(path=place, sample=4), None)


def calls(folder: Path, *overrides: str) -> dict[str, Call]:
    found: dict[str, Call] = {}

    def run(call: Call) -> Handle:
        found[call.label] = call
        return Ref(kind=call.stage.kind, key=call.label.replace("/", "-"), digest="0" * 64)

    finetune(prepared(folder, *overrides), run)
    return found


def test_a_subject_enters_the_pictures_alone(tmp_path: Path) -> None:
    """What is compared follows from the pictures; prompts that say nothing new are written as they were before."""
    write_experiment(tmp_path / "toy")
    before = calls(tmp_path)
    plain = {"id": "p0", "prompt": "a photo of a person 0", "category": ""}
    assert before["images/base"].params["prompts"][0] == plain
    assert set(before["comparison"].params["evaluation"]) == {
        *("replicates", "seed", "confidence", "resamples", "strict", "gates", "stop", "sequential"),
    }
    (tmp_path / "toy" / "prompts.jsonl").write_text('{"prompt": "a photo of {subject}", "settings": {"steps": 1}}\n')
    dog, cat = (calls(tmp_path, f"evaluation.subject=a sks {animal}") for animal in ("dog", "cat"))
    assert dog["images/base"].params["prompts"][0]["prompt"] == "a photo of a sks dog"
    assert dog["images/base"].params["prompts"][0]["settings"] == {"steps": 1}
    assert dog["images/base"].params["prompts"][0]["id"] == cat["images/base"].params["prompts"][0]["id"]
    assert dog["comparison"].params == cat["comparison"].params == before["comparison"].params


# --- the sets we ship ---


@pytest.mark.parametrize("file", sorted(path.name for path in OURS.iterdir()))
def test_our_sets_are_read_and_can_be_drawn(file: str) -> None:
    prompts = read_prompts(OURS / file)
    for prompt in prompts:
        prompt.sampling(SamplingConfig())
    assert len({prompt.prompt for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize("name", COUNTS)
def test_sets_that_are_for_every_model_are_stratified(name: str) -> None:
    prompts = read_prompts(OURS / f"{name}.jsonl")
    sizes = {category: 0 for category in dict.fromkeys(prompt.category for prompt in prompts)}
    for prompt in prompts:
        sizes[prompt.category] += 1
    assert len(prompts) == COUNTS[name] and len(sizes) == 11
    assert max(sizes.values()) <= 1.5 * min(sizes.values())
    assert not any("{" in prompt.prompt for prompt in prompts)


def test_no_two_of_our_sets_share_an_id() -> None:
    names = [*COUNTS, *TEMPLATES]
    ids = [prompt.id for name in names for prompt in read_prompts(OURS / f"{name}.jsonl")]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_takes_a_subject(name: str) -> None:
    place = str(OURS / f"{name}.jsonl")
    assert all(prompt.prompt.count("{subject}") == 1 for prompt in read_prompts(Path(place)))
    assert all("a sks one" in prompt.prompt for prompt in chosen_prompts(PromptSetConfig(path=place), "a sks one"))
