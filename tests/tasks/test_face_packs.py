"""A face pack as a metric's weights: known by what loading reads of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.config import EvaluationConfig
from tasks.digests import FileDigests
from tasks.weights import locate_metric_weights


def test_a_pack_is_known_by_its_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And by its manifest, which says which they are; not by notes beside them."""
    monkeypatch.setattr("eval.scorers.base.find_spec", lambda name: object())  # as if insightface were installed
    pack = tmp_path / "pack"
    pack.mkdir()
    metrics = [{"metric": name, "pack": str(pack)} for name in ("face_detection", "background_ssim")]
    evaluation = EvaluationConfig.model_validate({"prompts": "p", "metrics": metrics, "strict": True})

    def digest(**files: bytes) -> str:
        for name, content in files.items():
            (pack / name.replace("_", ".")).write_bytes(content)
        found = locate_metric_weights(evaluation, FileDigests(tmp_path / "digests.sqlite"))
        (one,) = {weights.digests["pack"] for weights in found.values()}
        return one

    first = digest(det_onnx=b"one", rec_onnx=b"two", readme_md=b"three")
    assert digest(readme_md=b"other") == first
    assert len({first, digest(rec_onnx=b"other"), digest(manifest_json=b"{}")}) == 3
