"""CLIPModel's own logits, without their scale."""

from __future__ import annotations

from tests.eval.references import Case
from tests.eval.references.clip_score import logit_and_scale
from tests.eval.references.clip_score import weights as weights


def reference(case: Case) -> float:
    logit, scale = logit_and_scale(case)
    return logit / scale
