"""Datasets in buckets are folders like any other to everything that comes after their mirror."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from sdxl_core.config import DatasetConfig
from sdxl_core.data.fingerprint import dataset_fingerprint
from sdxl_core.errors import UserError
from tasks import dataset
from tasks.dataset_check import check_dataset
from tasks.experiment import prepare_experiment
from tasks.gc import Retention, collect, find_garbage
from tasks.locks import held
from tasks.mirrors import found_here, mirror_home
from tasks.outside import verify_sources
from tasks.report import learned_from
from tasks.sources import Source
from tasks.stage import Job, materialise
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config
from tests.processes import CLEAN
from tests.tasks.toy import write_experiment

URL = "memory://toy-bucket/my pictures"


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """An experiment whose pictures lie in a bucket too."""
    path = write_experiment(tmp_path / "toy")
    bucket = fsspec.filesystem("memory")
    bucket.put(f"{tmp_path}/toy/pictures/", "/toy-bucket/my pictures/", recursive=True)
    yield path
    bucket.rm("/toy-bucket", recursive=True)


def mirror_in_child(place: str, store: ArtifactStore) -> None:
    found_here(DatasetConfig(path=place), store)


def test_where_the_pictures_lie_does_not_matter(config: Path, store: ArtifactStore) -> None:
    here = prepare_experiment(read_config(config), store, "command")
    there = prepare_experiment(read_config(config, [f"dataset.path={URL}"]), store, "command")
    assert there.fingerprint == here.fingerprint
    calls = [dataset.prepare(each.config.dataset, each.fingerprint) for each in (here, there)]
    assert calls[0].recipe().key == calls[1].recipe().key
    assert materialise(calls[1], store, "cpu") == materialise(calls[0], store, "cpu")


def test_what_is_shown_is_the_url_and_the_data_has_its_name(config: Path, store: ArtifactStore) -> None:
    settings = [f"dataset.path={URL}", f"dataset.validation_path={URL}/", "training.validation.loss.every_steps=1"]
    there = prepare_experiment(read_config(config, settings), store, "command")
    shown = there.shown_config["dataset"]
    assert {shown[name].rstrip("/") for name in ("path", "validation_path")} == {URL}
    assert str(store.root) not in str(shown) and learned_from(there.config.dataset) == ["my-pictures"]
    assert there.lesson is not None and there.lesson.validation_fingerprint == there.fingerprint


def test_a_picture_more_is_another_dataset(config: Path, store: ArtifactStore) -> None:
    settings = read_config(config, [f"dataset.path={URL}"])
    before = prepare_experiment(settings, store, "command").fingerprint
    assert prepare_experiment(settings, store, "command").fingerprint == before
    fsspec.filesystem("memory").pipe("/toy-bucket/my pictures/more.png", b"x")
    assert prepare_experiment(settings, store, "command").fingerprint != before


def test_check_and_lineage_look_into_the_bucket(config: Path, store: ArtifactStore, tmp_path: Path) -> None:
    told: list[str] = []
    settings = read_config(config, [f"dataset.path={URL}", f"runtime.store={store.root}"])
    check_dataset(settings, told.append)
    assert "3" in told[0]
    there = prepare_experiment(settings, store, "command")
    [found] = verify_sources(
        store, [Source("dataset files", "", there.fingerprint)], there.shown_config, tmp_path / "toy"
    )
    assert found.state == "unchanged", found


def test_a_dataset_that_changes_while_it_is_read_becomes_no_artifact(config: Path, store: ArtifactStore) -> None:
    settings = read_config(config).dataset
    call = dataset.prepare(settings, dataset_fingerprint(settings, store.digest_file.many))

    def meanwhile(job: Job) -> dict[str, object]:
        Image.new("RGB", (8, 8), (9, 9, 9)).save(Path(settings.path) / "0.png")
        return call.stage.build(job)

    with pytest.raises(UserError, match="dataset pictures: it changed while it was read; run again"):
        materialise(replace(call, stage=replace(call.stage, build=meanwhile)), store, "cpu")
    assert not list(store.manifests("dataset"))


def test_one_process_mirrors_and_others_wait(
    config: Path, store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"file://{tmp_path}/toy/pictures"
    lock = store.lock_path("mirror", mirror_home(store, url).name)
    with held(lock, lambda holder: None):
        child = CLEAN.Process(target=mirror_in_child, args=(url, store))
        child.start()
        time.sleep(0.5)
        assert not (mirror_home(store, url) / "index.jsonl").exists()
    child.join(60)
    assert child.exitcode == 0 and (mirror_home(store, url) / "index.jsonl").exists()
    with caplog.at_level("INFO", "sdxl_flows"):
        found_here(DatasetConfig(path=url), store)
    assert "0 read, 4 unchanged, 0 gone" in caplog.text


def test_mirrors_of_nobody_go_and_others_stay(config: Path, store: ArtifactStore) -> None:
    found_here(DatasetConfig(path=URL), store)
    home = mirror_home(store, URL)
    assert find_garbage(store, Retention()).leftovers == ()
    os.utime(home, (1, 1))
    garbage = find_garbage(store, Retention())
    assert garbage.leftovers == (home,)
    with held(store.lock_path("mirror", home.name), lambda holder: None):
        assert collect(store, garbage) == 0 and home.exists()
    assert collect(store, garbage) > 0 and not home.exists()


def test_a_url_stays_a_url_wherever_the_configuration_lies(tmp_path: Path) -> None:
    path = write_experiment(tmp_path / "toy")
    path.write_text(path.read_text().replace("./pictures", "s3://bucket/pictures"))
    assert read_config(path).dataset.path == "s3://bucket/pictures"
