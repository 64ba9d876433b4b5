"""ImageReward: the checkpoint under its original names, and what decides a reward."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.blip import load_image_reward
from eval.errors import EvalError
from eval.scorers.image_reward import ImageReward
from eval.table import read_scores
from tests.eval.references.image_reward import original_state, reward

ToyWeights = Callable[[str], Mapping[str, Path]]
SAME_TENSORS = {
    "vision.embeddings.class_embedding": "blip.visual_encoder.cls_token",
    "vision.embeddings.position_embedding": "blip.visual_encoder.pos_embed",
    "vision.embeddings.patch_embedding.weight": "blip.visual_encoder.patch_embed.proj.weight",
    "vision.embeddings.patch_embedding.bias": "blip.visual_encoder.patch_embed.proj.bias",
    "vision.encoder.layers.1.layer_norm1.weight": "blip.visual_encoder.blocks.1.norm1.weight",
    "vision.encoder.layers.1.layer_norm2.bias": "blip.visual_encoder.blocks.1.norm2.bias",
    "vision.encoder.layers.1.self_attn.qkv.weight": "blip.visual_encoder.blocks.1.attn.qkv.weight",
    "vision.encoder.layers.1.self_attn.projection.bias": "blip.visual_encoder.blocks.1.attn.proj.bias",
    "vision.encoder.layers.1.mlp.fc1.weight": "blip.visual_encoder.blocks.1.mlp.fc1.weight",
    "vision.encoder.layers.1.mlp.fc2.bias": "blip.visual_encoder.blocks.1.mlp.fc2.bias",
    "vision.post_layernorm.weight": "blip.visual_encoder.norm.weight",
    "text.embeddings.word_embeddings.weight": "blip.text_encoder.embeddings.word_embeddings.weight",
    "text.embeddings.LayerNorm.bias": "blip.text_encoder.embeddings.LayerNorm.bias",
    "text.encoder.layer.1.crossattention.self.key.weight": (
        "blip.text_encoder.encoder.layer.1.crossattention.self.key.weight"
    ),
    "text.encoder.layer.1.output.LayerNorm.weight": "blip.text_encoder.encoder.layer.1.output.LayerNorm.weight",
    "head.0.weight": "mlp.layers.0.weight",
    "head.7.bias": "mlp.layers.7.bias",
}


@pytest.fixture
def folder(toy_weights: ToyWeights, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(toy_weights("image_reward")["model"], tmp_path / "reward"))


def values_of(score: Any, out: Path, base: Path, **places: Path) -> list[float]:
    metric = ImageReward.model_validate({"metric": "image_reward"} | {name: str(at) for name, at in places.items()})
    return [row.value for row in sorted(read_scores(score(metric, out, base=base)), key=lambda row: row.key)]


def why_not(score: Any, out: Path, base: Path, **places: Path) -> str:
    values_of(score, out, base, **places)
    (facts,) = json.loads((out / "metrics.json").read_text())
    return str(facts["not_run"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, toys: Any) -> Path:
    """One picture for two prompts."""
    folder = tmp_path_factory.mktemp("reward") / "base"
    return Path(toys.image_set(folder, lambda prompt, replicate: toys.paint(1)(0, 0), ("a red cat", "a blue dog")))


def test_every_tensor_of_the_original_finds_its_place(folder: Path) -> None:
    stored = load_file(folder / "ImageReward.safetensors")
    loaded = load_image_reward(folder / "ImageReward.safetensors", folder / "med_config.json").state_dict()
    for ours, original in SAME_TENSORS.items():
        assert torch.equal(loaded[ours], stored[original]), ours
    unused = ["vision_proj.weight", "vision_proj.bias", "text_proj.weight", "text_proj.bias"]
    assert len(loaded) == len(set(stored) - {f"blip.{name}" for name in unused}) - 1  # position_ids


def test_the_reward_depends_on_the_prompt(folder: Path, base: Path, score: Any, tmp_path: Path) -> None:
    cat, dog = values_of(score, tmp_path / "out", base, model=folder)
    assert abs(cat - dog) > 1e-3


def test_oblong_pictures_are_cut_and_capitals_lowered(folder: Path, score: Any, toys: Any, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (229, 301, 3), dtype=np.uint8)
    base = toys.image_set(tmp_path / "base", lambda prompt, replicate: picture, ("A Red cat", "a red cat"))
    capitals, small = values_of(score, tmp_path / "out", base, model=folder)
    state = {name: tensor.double() for name, tensor in load_file(folder / "ImageReward.safetensors").items()}
    assert capitals == small == pytest.approx(reward(state, picture, "a red cat"), abs=2e-5)


def test_the_original_file_gives_what_its_safetensors_give(
    folder: Path, base: Path, score: Any, tmp_path: Path
) -> None:
    expected = values_of(score, tmp_path / "safetensors", base, model=folder)
    (tmp_path / "original").mkdir()
    file = tmp_path / "original" / "ImageReward.pt"
    torch.save(original_state(), file)
    (folder / "ImageReward.safetensors").unlink()
    assert values_of(score, tmp_path / "pt", base, model=file, text=folder) == expected


def test_long_prompts_are_cut_at_35_tokens(folder: Path, score: Any, toys: Any, tmp_path: Path) -> None:
    base = toys.image_set(tmp_path / "base", toys.paint(1), ("x " * 33, "x " * 34))
    values_of(score, tmp_path / "out", base, model=folder)
    (facts,) = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert facts["truncated_prompts"] == ["p1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp.layers.4.bias": None}, r"1 tensors are missing or of another shape, first 'mlp\.layers\.4\.bias'"),
        ({"blip.visual_encoder.norm.weight": torch.zeros(3)}, r"another shape, first 'blip\.visual_encoder\.norm"),
        ({"blip.queue": torch.zeros(3)}, r"1 tensors are of no known use, first 'blip\.queue'"),
        ({"blip.visual_encoder.patch_embed.proj.weight": None}, r"Expected the names of ImageReward\.pt, such as"),
    ],
)
def test_every_key_must_be_used_or_known_to_be_unused(
    change: dict[str, torch.Tensor | None], message: str, folder: Path
) -> None:
    state = {name: tensor for name, tensor in ({**original_state(), **change}).items() if tensor is not None}
    save_file(state, folder / "ImageReward.safetensors")
    with pytest.raises(EvalError, match=r"ImageReward\.safetensors: not ImageReward's weights.*" + message):
        load_image_reward(folder / "ImageReward.safetensors", folder / "med_config.json")


def test_a_text_part_of_other_sizes_or_none_is_refused(folder: Path) -> None:
    path = folder / "med_config.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "num_hidden_layers": 1}))
    with pytest.raises(EvalError, match=r"as med_config\.json describes them: 26 tensors are of no known use"):
        load_image_reward(folder / "ImageReward.safetensors", path)
    del described["num_attention_heads"]
    path.write_text(json.dumps(described))
    with pytest.raises(EvalError, match=r"med_config\.json: no 'num_attention_heads' in it"):
        load_image_reward(folder / "ImageReward.safetensors", path)


def test_nothing_is_unpickled(folder: Path) -> None:
    class Whole:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (folder / "was_run",)

    for content in (Whole(), {"state_dict": Whole()}):
        (folder / "ImageReward.pt").write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(EvalError, match=r"ImageReward\.pt: cannot be read as a file of plain tensors"):
            load_image_reward(folder / "ImageReward.pt", folder / "med_config.json")
    torch.save({**original_state(), "epoch": 3}, folder / "ImageReward.pt")
    with pytest.raises(EvalError, match=r"ImageReward\.pt: expected tensors by name"):
        load_image_reward(folder / "ImageReward.pt", folder / "med_config.json")
    assert not (folder / "was_run").exists()


def test_missing_files_are_named(folder: Path, base: Path, score: Any, tmp_path: Path) -> None:
    weights = folder / "ImageReward.safetensors"
    assert "image_reward.text: expected a folder" in why_not(score, tmp_path / "1", base, model=weights)
    words = (folder / "vocab.txt").read_text()
    (folder / "vocab.txt").unlink()
    assert why_not(score, tmp_path / "2", base, model=folder).startswith("reward: no vocab.txt in it")
    (folder / "vocab.txt").write_text(words + "".join(f"extra{number}\n" for number in range(3)))
    assert "reward: the tokenizer has 80 tokens" in why_not(score, tmp_path / "3", base, model=folder)
    (folder / "med_config.json").unlink()
    assert why_not(score, tmp_path / "4", base, model=folder).startswith("reward: no med_config.json in it")
    weights.rename(folder / "ImageReward.pt")
    assert "found 0. For ImageReward.pt, say the file" in why_not(score, tmp_path / "5", base, model=folder)
