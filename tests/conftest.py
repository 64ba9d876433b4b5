"""Settings shared by all tests. Nothing is downloaded, and nothing reaches for a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ours", deadline=None)  # on a busy machine, time says nothing about a law
settings.load_profile("ours")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
LONGEST = (
    "flows/test_fan_out.py",
    "flows/test_retraining.py",
    "flows/test_sd15.py",
    "flows/test_pipeline.py",
    "flows/test_shards.py",
    "sdxl_core/test_sd15.py",
    "sdxl_core/test_resume.py",
    "sdxl_core/test_golden.py",
    "sdxl_core/test_adapters.py",
    "flows/test_several.py",
    "flows/test_cli.py",
)
"""Files that take longest, which come first: one that began last would keep a worker busy alone."""


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # xdist would put the files with most tests first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(LONGEST)))


@pytest.fixture(scope="session")
def random_sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with Stable Diffusion 1.5's own classes, toy-sized, with random weights."""
    from sdxl_core.miniature.sd15 import write_random_sd15

    folder = tmp_path_factory.mktemp("random") / "sd15"
    write_random_sd15(folder)
    return folder
