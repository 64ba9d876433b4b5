"""What scores while training change in the train stage's key."""

from __future__ import annotations

from pathlib import Path

from tasks.manifest import Ref
from tests.tasks.toy import ONE, Plan, write_weights


def test_scores_while_training_are_in_its_key_with_their_weights_and_what_they_compare_with(
    plan: Plan, tmp_path: Path
) -> None:
    validation = "training.validation={prompts: [a], every_steps: 1, scores: [clip_i, ssim]}"
    plain, scored = plan()["train"], plan(validation)["train"]
    assert "scores" not in plain.params and "references" not in plain.inputs
    assert scored.inputs["references"] == Ref(kind="dataset", key="k", digest="dataset")
    assert "references" not in plan(validation.replace("clip_i, ssim", "ssim"))["train"].inputs
    best = ("training.export=best", "training.best_by=clip_i")
    assert plan(validation, *best)["train"].params["best_by"] == "clip_i"
    assert plan(validation, *best)["train"].params["training"] == scored.params["training"]
    assert plan(validation, "evaluation.metrics.0.primary=true")["train"].params == scored.params
    write_weights(tmp_path / "toy" / "clip" / "model.safetensors", ONE, value=1)
    assert plan(validation)["train"].params != scored.params
    assert plan()["train"].params == plain.params
