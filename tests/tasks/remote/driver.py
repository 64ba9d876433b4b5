"""A machine that has a job train: `python -m ... LESSON ROOT URL CONTAINER OVERRIDE...`; prints the digest."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from tasks.remote import launch
from tasks.remote.config import SageMakerConfig
from tasks.stage import Conditions
from tasks.store import ArtifactStore, StorePlace
from tests.sagemaker import ROLE
from tests.tasks.remote.conftest import Lesson


def _stop(number: int, frame: object) -> None:
    sys.exit(75)


def main(folder: str, root: str, url: str, container: str, *overrides: str) -> None:
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    launch.POLL_S = 0.2
    lesson = Lesson.__new__(Lesson)
    lesson.folder = Path(folder)
    config = SageMakerConfig(
        engine="sagemaker", role=ROLE, image="image", instance="ml.g6e.xlarge", spot=True, folder=container
    )
    store = ArtifactStore.at(StorePlace(root, "auto", url))
    call = lesson.call(store, overrides)
    print(launch.materialise_elsewhere(call, store, config, Conditions()).digest)


if __name__ == "__main__":
    main(*sys.argv[1:])
