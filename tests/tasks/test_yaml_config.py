"""Mistakes in configurations, and what is said about them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

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
    "training.weighting={kind: min_snr, gama: 3}": ["training.weighting.gama", "unknown key", "'gamma'"],
    "training.weighting.kind=min_snrr": ["training.weighting.kind", "'min_snrr'", "'min_snr'"],
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
    "training.max_steps=true": ["training.max_steps", "expected a number, got true"],
    "evaluation.replicates=false": ["evaluation.replicates"],
    "training.max_steps=many": ["training.max_steps", "valid integer", "'many'"],
    "training.learning_rate=.nan": ["finite", "nan"],
    "training=3": ["training", "section", "3"],
    "name.x=3": ["name holds a value"],
    "name=Ü": ["name", "pattern", "Ü"],
    "training.x": ["KEY=VALUE"],
    "transform.crops_per_image=3": ["transform", "crop: random"],
    "training.wandb={entity: me}": ["training.wandb.project", "missing"],
    "training.validation={every_steps: 3}": ["training.validation", "expected `prompts`", "got neither"],
    "training.max_steps=1e30": ["training.max_steps", "1e+30"],
    f"training.max_steps={10**30}": ["training.max_steps", "at most 64 bits", "got one of 100"],
    f"training.seed={2**63}": ["training.seed", "at most 64 bits", "got one of 64"],
    f"training.max_steps=0x{'f' * 9000}": ["training.max_steps", "at most 64 bits"],  # too long for Python to print
    f"training.max_steps={'9' * 5000}": ["training.max_steps", "not YAML", "4300 digits"],
    "training.learning_rate=-1e-4": ["training.learning_rate", "greater than 0", "-0.0001"],
    "training.learning_rate=yes": ["training.learning_rate", "valid number", "'yes'"],
    "training.precision=no": ["training.precision", "fp32, fp16, bf16", "'no'"],
    "evaluation.metrics.²=3": ["from 0 to 1", "'²'"],
    'dataset.path="./a\\0b"': ["dataset.path", "expected text", "a\\x00b"],
    'dataset.path="\\ud800"': ["dataset.path", "expected text"],
    "dataset.prompt=2024-01-01": ["dataset.prompt", "valid string", "2024"],
    "training={null: 2}": ["training.None", "Keys should be strings"],
    f"name={'x' * 20_000}": ["name", "xxx... (20002 characters)"],
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
    "# nothing but a comment\n": ["got nothing"],
    CONFIG.replace("max_steps: 2", "max_steps: 2, max_steps: 3"): ["line 6", "duplicate key", "max_steps"],
    "%YAML 1.1\n---\n" + CONFIG: ["toy.yaml", "YAML 1.2"],  # in which `no` would be false, and 1e-3 a text
    "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)): ["line 2", "aliases"],
    "a: &a [*a]\n": ["line 1", "aliases"],
    "a: " + "[" * 10_000: ["line 1", "deeper than 20 levels"],
    "a: " + "[" * 5_000 + "]" * 5_000: ["line 1", "deeper than 20 levels"],
    "a: " + "x" * 20_000: ["longer than 20000 characters"],
    "a: " + "x" * 400_000: ["longer than 20000 characters"],
    CONFIG + "? [a]\n: b\n": ["Keys should be strings"],
    CONFIG + "2: b\n": ["2: Keys should be strings"],
    CONFIG + "x\0": ["not YAML", "unacceptable character"],
    CONFIG + "".join(f"wrong{n}: 1\n" for n in range(1000)): ["wrong19: unknown key", "and 980 more"],
}


TRAPS = {
    "training.learning_rate=1e-4": 1e-4,
    "dataset.prompt=no": "no",
    "dataset.caption_column=on": "on",
    "name=null-is-a-word": "null-is-a-word",
    "training.gradient_checkpointing=no": False,
    "training.max_steps=1e3": 1000,
    "dataset.prompt=3:25:45": "3:25:45",
}


@pytest.mark.parametrize("override", TRAPS)
def test_what_other_yaml_mistakes_is_taken_as_meant(config: Path, override: str) -> None:
    value: object = read_config(config, [override])
    for part in override.partition("=")[0].split("."):
        value = getattr(value, part)
    assert value == TRAPS[override] and type(value) is type(TRAPS[override])


KEYS = st.sampled_from(
    ["name", "model", "base", "training", "evaluation", "metrics", "0", "9", "kind", "adapter", "²", ""]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(KEYS, min_size=1, max_size=5), VALUES)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_whatever_is_set_ends_in_a_configuration_or_an_explanation(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], value: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_text(CONFIG)
    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump({"value": value}, stream)
    text = stream.getvalue().removeprefix("value:")
    try:
        read_config(path, [f"{'.'.join(keys)}={text}"])
    except ConfigError as error:
        assert 0 < len(str(error)) < 20_000


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_whatever_a_file_holds_ends_in_an_explanation(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ConfigError, match=r"noise\.yaml"):
        read_config(path)


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
