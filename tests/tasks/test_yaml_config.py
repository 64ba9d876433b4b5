"""Mistakes in configurations, and what is said about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.config import PipelineConfig, config_schema
from tasks.errors import ConfigError
from tasks.yaml_config import parse_yaml, read_config, to_yaml
from tests.tasks.toy import CONFIG


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(CONFIG)
    return path


OVERRIDES = {
    "training.objective.min_snr_gama=3": ["training.objective.min_snr_gama", "unknown key", "'min_snr_gamma'"],
    "training.adapter.rnk=3": ["training.adapter.rnk", "unknown key", "'rank'"],
    "evaluation.metrics=[{model: ./x}]": ["evaluation.metrics.0.metric", "missing"],
    "modl.base=./x": ["modl", "unknown key", "'model'"],
    "prior.sampling.stps=3": ["prior.sampling.stps", "'steps'"],
    "evaluation.metrics.0.modle=x": ["evaluation.metrics.0.modle", "unknown key", "'model'"],
    "evaluation.metrics.0.metric=clipi": ["evaluation.metrics.0.metric", "clip_score", "'clipi'", "'clip_i'"],
    "evaluation.metrics.7.metric=x": ["from 0 to 1", "'7'"],
    "evaluation.metrics=[]": ["evaluation.metrics", "at least 1"],
    "training.objective.kind=prior": ["training.objective.kind", "diffusion, prior_preservation", "'prior'"],
    "training.precision=bf15": ["training.precision", "fp32, fp16, bf16", "'bf15'", "'bf16'"],
    "training.max_steps=-1": ["training.max_steps", "greater than or equal to 1", "-1"],
    "training.max_steps=many": ["training.max_steps", "valid integer", "'many'"],
    "training.learning_rate=.nan": ["finite", "nan"],
    "training=3": ["training", "section", "3"],
    "name.x=3": ["name holds a value"],
    "name=Ü": ["name", "pattern", "Ü"],
    "training.x": ["KEY=VALUE"],
    "transform.crops_per_image=3": ["transform", "crop: random"],
    "training.validation={every_steps: 3}": ["training.validation.prompts", "missing"],
    "runtime.device=gpu": ["runtime.device", "auto, cpu, cuda", "'gpu'"],
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_error_says_where_what_and_how_to_mend_it(config: Path, override: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(config, [override])
    for part in OVERRIDES[override]:
        assert part in str(error.value)


FILES = {
    CONFIG + "name: again\n": ["toy.yaml", "line 13", "duplicate key", "name"],
    CONFIG.replace("name: toy\n", ""): ["toy.yaml: name: missing"],
    CONFIG.replace("1e-3", ".inf"): ["training.learning_rate", "finite"],
    CONFIG.replace("1e-3", "&a 1e-3\nx: *a"): ["not YAML"],
    "a: &x [1]\nb: [*x, *x]\n": ["aliases"],
    "": ["got nothing"],
    "- a\n- b\n": ["sections", "list"],
    "a: [1": ["line 1", "not YAML"],
    "a: !!python/object:os.system x": ["not YAML", "tag"],
    "a: 1\n---\nb: 2\n": ["not YAML"],
}


@pytest.mark.parametrize("text", FILES)
def test_bad_files_are_refused_with_a_reason(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_config(config)
    for part in FILES[text]:
        assert part in str(error.value)


def test_a_missing_file_names_its_neighbour(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such configuration file\. Did you mean 'toy\.yaml'"):
        read_config(config.with_name("toi.yaml"))


def test_other_bytes_than_utf8_are_refused(config: Path) -> None:
    config.write_bytes("name: für".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        read_config(config)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("5E-5", 5e-5), ("no", "no"), ("on", "on"), ("0o17", 15), ("010", 10), ("12:30", "12:30")],
)
def test_it_is_yaml_1_2(text: str, value: object) -> None:
    assert parse_yaml(f"a: {text}", "here") == {"a": value}


def test_local_paths_are_relative_to_the_file_and_overrides_to_the_working_folder(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    read = read_config(config, ["model.vae=./vae"])
    assert read.model.base == str(tmp_path / "sdxl")
    assert read.model.vae == str(elsewhere / "vae")
    assert read_config(config, ["model.base=someone/hub-id"]).model.base == "someone/hub-id"
    assert read_config(config, ["dataset.path=~/x"]).dataset.path == str(Path.home() / "x")


def test_overrides_reach_lists_and_absent_sections(config: Path) -> None:
    read = read_config(config, ["evaluation.metrics.1={metric: ssim, name: other}", "training.ema.decay=0.5"])
    assert read.evaluation.metrics[1].id == "other"
    assert read.training.ema is not None and read.training.ema.decay == 0.5


def test_what_is_written_reads_back(config: Path) -> None:
    document = read_config(config).model_dump(mode="json")
    assert PipelineConfig.model_validate(parse_yaml(to_yaml(document), "here")) == read_config(config)


def test_the_schema_describes_every_field() -> None:
    schema = config_schema()
    assert schema["properties"].keys() == PipelineConfig.model_fields.keys()
    assert "Class images" in schema["properties"]["prior"]["description"]
