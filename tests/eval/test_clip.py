"""CLIP embeddings: what is cut, what is remembered, and for how long."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPTextModelWithProjection

from eval.clip import ClipText


def test_a_long_prompt_is_cut_to_77_tokens_and_keeps_its_end(clip_folder: Path) -> None:
    clip, prompt = ClipText(clip_folder, "0", {}, "cpu"), "abc " * 40
    tokenizer = AutoTokenizer.from_pretrained(clip_folder)
    whole = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = [tokenizer.bos_token_id, *whole[:75], tokenizer.eos_token_id]
    with torch.no_grad():
        expected = CLIPTextModelWithProjection.from_pretrained(clip_folder)(torch.tensor([ids])).text_embeds[0]
    np.testing.assert_allclose(clip.embedding_D(prompt), torch.nn.functional.normalize(expected, dim=0), atol=1e-6)
    assert clip.is_truncated(prompt)
    assert not clip.is_truncated("x " * 75)
    assert clip.is_truncated("x " * 76)


def test_other_weights_or_preprocessing_are_other_cells(clip_folder: Path, tmp_path: Path) -> None:
    cells: dict[str, bytes] = {}
    ClipText(clip_folder, "0", cells, "cpu").embedding_D("a")
    ClipText(clip_folder, "0", cells, "cpu").embedding_D("a")
    assert len(cells) == 1
    ClipText(clip_folder, "1", cells, "cpu").embedding_D("a")
    assert len(cells) == 2
    changed = shutil.copytree(clip_folder, tmp_path / "changed")
    settings = json.loads((changed / "processor_config.json").read_text())
    settings["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    (changed / "processor_config.json").write_text(json.dumps(settings))
    ClipText(changed, "0", cells, "cpu").embedding_D("a")
    assert len(cells) == 3
