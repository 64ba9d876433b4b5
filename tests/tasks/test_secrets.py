"""Secrets come neither into configurations nor out of logs."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from flows.common import configure
from tasks.errors import ConfigError
from tasks.secrets import LOGGERS, mask_logs, masked
from tasks.settings import Settings
from tasks.yaml_config import read_config
from tests.tasks.toy import CONFIG

HF, AWS, HEX = "hf_" + "aB3" * 10, "AKIA" + "B2" * 8, "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(CONFIG)
    return path


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    HF: ({"model": {"base": f"someone/{HF}"}}, "settings.model.base", "HF_TOKEN"),
    AWS: ({"dataset": {"path": f"s3://{AWS}/x"}}, "settings.dataset.path", "AWS_SECRET_ACCESS_KEY"),
    "pass1": ({"model": {"vae": "https://me:pass1@example.org/x"}}, "settings.model.vae", "PREFECT_API_AUTH_STRING"),
    f"{HF}x": ({"evaluation": {"candidates": ["base", f"{HF}x"]}}, "settings.evaluation.candidates.1", "HF_TOKEN"),
}


@pytest.mark.parametrize("secret", REFUSED)
def test_what_looks_like_a_credential_is_refused_without_being_said(config: Path, secret: str) -> None:
    given, place, variable = REFUSED[secret]
    with pytest.raises(ConfigError) as refusal:
        configure(config, settings=Settings.model_validate(given))
    assert place in str(refusal.value) and variable in str(refusal.value)
    assert secret not in str(refusal.value)


@pytest.mark.parametrize(
    "override", [f"model.base={HF}", f"training.wandb={{project: a, api_key: {HEX}}}", f"{HF}", f"training.{HF}=3"]
)
def test_so_is_what_is_set_and_what_the_file_says(config: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="looks like") as refusal:
        read_config(config, [override])
    assert HF not in str(refusal.value) and HEX not in str(refusal.value)
    config.write_text(CONFIG.replace("./sdxl", f"https://user:{HF}@example.org"))
    with pytest.raises(ConfigError, match=r"toy\.yaml: model\.base: looks like"):
        read_config(config)


def test_a_commit_and_an_address_are_no_secrets(config: Path) -> None:
    revised = read_config(config, [f"model.revision={HEX}", "dataset.prompt=at https://example.org:8080/x@y"])
    assert revised.model.revision == HEX


def test_secrets_of_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "HF_TOKEN": HF,
        "WANDB_API_KEY": HEX,
        "AWS_ACCESS_KEY_ID": AWS,
        "my_password": "correct horse",
        "PREFECT_API_AUTH_STRING": "admin:battery staple",
        "OTHER_TOKEN": f"{HF}-longer",
    }
    for name, value in {**secrets, "SHORT_TOKEN": "word", "AWS_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(name, value)
    shown = masked(f"{HF}-longer {' '.join(secrets.values())} word eu-central-1 battery staple")
    assert shown == "*** *** *** *** *** *** *** word eu-central-1 ***"


@pytest.mark.parametrize("name", LOGGERS)
def test_loggers_say_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in arguments nor in a traceback."""
    monkeypatch.setenv("HF_TOKEN", HF)
    mask_logs()
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(logging.Formatter().format(record))  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        logger.warning("got %s of %d", HF, 3)
        try:
            raise ValueError(f"with {HF}")
        except ValueError:
            logger.exception("failed")
    finally:
        logger.removeHandler(handler)
    assert lines[0] == "got *** of 3"
    assert "ValueError: with ***" in lines[1] and HF not in lines[1]


def test_no_logger_is_forgotten() -> None:
    files = [path for package in ("flows", "tasks") for path in (REPOSITORY / package).rglob("*.py")]
    used = {name for path in files for name in re.findall(r'getLogger\("([\w.]+)"\)', path.read_text())}
    assert {name for name in used if name.startswith("sdxl_flows")} == {*LOGGERS}
