"""Where a browser finds a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.published import FACTS, PAGE, VIEW_URL, published_reports, report_url


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("kestrel", "several/one"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / PAGE).touch()
        (folder / FACTS).write_text('{"title": "t", "headline": "h", "verdict": null}')
    return tmp_path / "runs"


def test_a_report_s_address_is_that_of_the_page_that_shows_it(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VIEW_URL, "http://127.0.0.1:7860/")
    shown = {f"http://127.0.0.1:7860/reports/{one.id}/report.html" for one in published_reports(runs)}
    assert len(shown) == 2
    assert {report_url(one.folder) for one in published_reports(runs)} == shown
    assert {report_url(one.folder / PAGE) for one in published_reports(runs)} == shown
    assert report_url(Path("runs/kestrel")) in shown


@pytest.mark.parametrize("page", ["", "file:///tmp", "javascript:alert(1)"])
def test_without_a_page_there_is_no_address(runs: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.setenv(VIEW_URL, page)
    assert report_url(runs / "kestrel") is None


def test_what_lies_elsewhere_has_no_address(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VIEW_URL, "http://127.0.0.1:7860")
    assert report_url(runs.parent / "other" / "kestrel") is None
