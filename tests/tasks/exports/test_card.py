"""The code in a model card, without a run."""

from __future__ import annotations

from sdxl_core.config import ModelConfig, SamplingConfig
from sdxl_core.export_config import ExportConfig
from sdxl_core.picture_settings import PictureSettings
from tasks.card import CardFacts, Sample, snippet


def test_the_code_draws_the_first_sample_by_its_own_settings() -> None:
    settings = PictureSettings(negative_prompt="snow", steps=7, width_px=1216)
    facts = CardFacts(
        name="x",
        repository="me/x",
        lora_file=None,
        other_files={},
        said=ExportConfig(),
        model=ModelConfig(base="a/b"),
        sampling=SamplingConfig(steps=30),
        summary="",
        samples=[Sample("a cat", 1, "b.png", "c.png", settings), Sample("a dog", 2, "b.png", "c.png")],
        training={},
        instance_prompt=None,
        stages=[],
    )
    code = snippet(facts)
    for line in ('negative_prompt="snow",', "num_inference_steps=7,", "width=1216,", "height=1024,"):
        assert f"    {line}\n" in code
