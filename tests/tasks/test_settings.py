"""A part of a configuration: what it refuses by itself, and what becomes of it in a whole one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema.exceptions import best_match
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError as Refused
from prefect.utilities.schema_tools.validation import validate
from pydantic import BaseModel

from flows.common import Configured, configure
from tasks.config import PipelineConfig
from tasks.errors import ConfigError
from tasks.settings import Partial, Settings
from tasks.yaml_config import read_config
from tests.tasks.toy import CONFIG


def takes_settings(config: Configured, settings: Settings | None = None) -> None: ...


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """As Prefect's server has it of a deployment."""
    return parameter_schema(takes_settings).model_dump_for_openapi()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(CONFIG)
    return path


def settings(**changes: Any) -> Settings:
    return Settings.model_validate(changes)


REFUSED = {
    '{"training": {"learning_rate": -1}}': ("settings.training.learning_rate", "-1 is less than or equal"),
    '{"training": {"learning_rat": 1}}': ("settings.training", "'learning_rat' was unexpected"),
    '{"trainin": {}}': ("settings", "'trainin' was unexpected"),
    '{"training": 3}': ("settings.training", "3 is not of type 'object'"),
    '{"training": {"max_steps": "many"}}': ("settings.training.max_steps", "'many' is not valid"),
    '{"training": {"max_steps": 1.5}}': ("settings.training.max_steps", "1.5 is not valid"),
    '{"training": {"adapter": {"kind": "lorra"}}}': ("settings.training.adapter.kind", "not one of ['lora', "),
    '{"training": {"adapter": {"rank": 0}}}': ("settings.training.adapter.rank", "minimum of 1"),
    '{"training": {"ema": {"decay": 2}}}': ("settings.training.ema.decay", "maximum of 1"),
    '{"evaluation": {"metrics": [{"metric": "sim"}]}}': ("settings.evaluation.metrics[0].metric", "'sim' is not one"),
    '{"evaluation": {"metrics": [{"model": "x"}]}}': ("settings.evaluation.metrics[0]", "'metric' is a required"),
    '{"evaluation": {"prompts": {"pth": "x"}}}': ("settings.evaluation.prompts", "'pth' was unexpected"),
    '{"transform": {"crop": "middle"}}': ("settings.transform.crop", "['center', 'random', 'face']"),
    '{"runtime": {"device": "tpu"}}': ("settings.runtime.device", "['auto', 'cpu', 'cuda']"),
}


@pytest.mark.parametrize("given", REFUSED)
def test_prefects_server_refuses_a_wrong_one_by_its_path(schema: dict[str, Any], given: str) -> None:
    place, why = REFUSED[given]
    found = best_match(validate({"config": "x.yaml", "settings": json.loads(given)}, schema))
    assert found is not None
    assert (found.json_path, why in found.message) == (f"$.{place}", True), found.message


def test_a_whole_configuration_is_refused_by_the_server(schema: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"for field 'config'.*is not of type 'string'"):
        validate({"config": {"name": "a"}}, schema, raise_on_error=True)


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {"training": {"adapter": {"kind": "oft", "block_size": 4}, "ema": None}},
        {"feedback": {"judges": [{"metric": "hps"}]}, "evaluation": {"prompts": "./x.txt", "gates": []}},
    ],
)
def test_prefects_server_takes_a_right_one(schema: dict[str, Any], given: dict[str, Any] | None) -> None:
    assert validate({"config": "x.yaml", "settings": given}, schema) == []


def test_no_default_stands_in_the_form(schema: dict[str, Any]) -> None:
    """It would be sent back, and so take the place of what the file says."""
    assert '"default":' not in json.dumps(schema["definitions"])


def test_no_switch_stands_in_the_form(schema: dict[str, Any]) -> None:
    """Prefect's form sends `false` of every switch that nobody has touched, and with it the sections it is in."""
    assert '"boolean"' not in json.dumps(schema["definitions"])
    [refusal] = validate({"config": "x.yaml", "settings": {"training": {"fused_lora": "yes"}}}, schema)[0].context[:1]
    assert refusal.message == "'yes' is not one of [True, False]"


def test_sections_that_say_nothing_change_nothing(config: Path) -> None:
    empty = {"training": {"ema": {}, "validation": {"loss": {}}}, "evaluation": {"sequential": {}}, "feedback": {}}
    assert merged(config, **empty) == read_config(config)


def test_every_field_of_a_configuration_is_there_with_its_help() -> None:
    def compare(whole: type[BaseModel], part: type[BaseModel]) -> int:
        assert whole.model_fields.keys() == part.model_fields.keys()
        assert not any(field.is_required() for field in part.model_fields.values())
        seen = 0
        for name, field in whole.model_fields.items():
            assert part.model_fields[name].description == field.description
            inner = part.model_fields[name].annotation
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                assert isinstance(inner, type) and issubclass(inner, Partial)
                seen += 1 + compare(field.annotation, inner)
        return seen

    assert compare(PipelineConfig, Settings) > 15


def test_it_says_no_more_than_it_was_told() -> None:
    given = {"training": {"adapter": {"rank": 4}, "ema": None}, "evaluation": {"metrics": [{"metric": "ssim"}]}}
    assert settings(**given).model_dump(mode="json") == given


def merged(config: Path, **changes: Any) -> PipelineConfig:
    return configure(config, settings=settings(**changes))


def test_a_part_leaves_the_rest_of_its_section(config: Path) -> None:
    before, after = read_config(config), merged(config, training={"adapter": {"rank": 2}}, prior={"count": 5})
    assert after.training.adapter.kind == "lora" and after.training.adapter.rank == 2
    assert after.training.max_steps == before.training.max_steps == 2
    assert after.prior is not None and before.prior is not None
    assert (after.prior.count, after.prior.prompt) == (5, before.prior.prompt)


def test_a_list_and_another_kind_take_the_place_of_the_files(config: Path) -> None:
    fewer = merged(config, evaluation={"metrics": [{"metric": "ssim"}]})
    assert [metric.id for metric in fewer.evaluation.metrics] == ["ssim"]
    config.write_text(CONFIG.replace("training: {", "training: {adapter: {rank: 2}, lr_schedule: cosine, "))
    assert merged(config, training={"adapter": {"kind": "lora", "alpha": 3}}).training.adapter.rank == 2
    assert merged(config, training={"adapter": {"kind": "oft"}}).training.adapter.kind == "oft"
    assert merged(config, training={"lr_schedule": {"cycles": 2}}).training.lr_schedule.kind == "cosine"


def test_null_takes_a_section_away(config: Path) -> None:
    changed = merged(config, prior=None, training={"objective": {"kind": "diffusion"}})
    assert changed.prior is None and changed.training.objective.kind == "diffusion"


def test_what_is_set_comes_after_and_candidates_before_all(config: Path) -> None:
    changes = settings(training={"max_steps": 7}, evaluation={"candidate": "base"})
    configured = configure(config, ["training.max_steps=9"], ["kestrel"], changes)
    assert (configured.training.max_steps, configured.evaluation.candidate) == (9, "kestrel")


def test_places_are_relative_to_the_working_folder(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.parent / "elsewhere").mkdir()
    monkeypatch.chdir(config.parent / "elsewhere")
    changed = merged(config, dataset={"path": "./mine"}, training={"adapter": {"start_from": "./a.safetensors"}})
    assert changed.dataset.path == str(config.parent / "elsewhere" / "mine")
    assert changed.training.start_from == str(config.parent / "elsewhere" / "a.safetensors")
    assert changed.model.base == str(config.parent / "sdxl")


MISTAKES: dict[str, dict[str, Any]] = {
    r"parameters: settings\.training: adapter: {kind: none}": {"training": {"adapter": {"kind": "none"}}},
    r"parameters: settings\.training\.adapter\.block_size: unknown key": {"training": {"adapter": {"block_size": 4}}},
    r"parameters: settings\.transform: .*crop: random": {"transform": {"crops_per_image": 3}},
    r"parameters: settings\.training\.adapter\.targets: ": {"training": {"adapter": {"targets": "everything"}}},
    r"parameters: settings\.evaluation\.metrics\.0\.model": {"evaluation": {"metrics": [{"metric": "clip_i"}] * 2}},
}


@pytest.mark.parametrize("place", MISTAKES)
def test_what_does_not_fit_together_is_told_when_merged(config: Path, place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        merged(config, **MISTAKES[place])


def test_a_mistake_of_the_file_is_still_the_files(config: Path) -> None:
    config.write_text(CONFIG.replace("max_steps: 2", "max_steps: -2"))
    with pytest.raises(ConfigError, match=r"toy\.yaml: training\.max_steps"):
        merged(config, training={"micro_batch_size": 2})
