"""Hostile configurations and checkpoints at the command line: one message, exit code 2, nothing run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.conftest import Cli
from tests.tasks.toy import CONFIG, write_experiment


class Payload:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (self.mark,)


CONFIGS = {
    "": "expected sections such as `model:`",
    "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)): "aliases",
    "a: " + "[" * 10_000: "nested deeper",
    CONFIG.replace(
        "max_steps: 2", f"max_steps: {10**30}"
    ): "training.max_steps: expected an integer of at most 64 bits",
    CONFIG.replace("max_steps: 2", "max_stesp: 2"): "Did you mean 'max_steps'?",
}


@pytest.mark.parametrize("text", CONFIGS, ids=range(len(CONFIGS)))
def test_a_bad_configuration_ends_in_one_message(cli: Cli, tmp_path: Path, text: str) -> None:
    config = write_experiment(tmp_path / "toy")
    config.write_text(text)
    done = cli("run", config)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {config}") and CONFIGS[text] in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr) < 2000


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_malicious_checkpoint_is_refused_before_anything_runs(cli: Cli, tmp_path: Path, suffix: str) -> None:
    config = write_experiment(tmp_path / "toy")
    weights = config.parent / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    weights.with_suffix(suffix).write_bytes(pickle.dumps(Payload(str(tmp_path / "ran"))) + bytes(100))
    done = cli("run", config)
    assert done.returncode == 2
    assert done.stderr.startswith("error: model.base: expected") and "pickle" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists() and not (tmp_path / "runs").exists()
