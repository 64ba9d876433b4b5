"""Which layers are adapted, and what is refused. SDXL's own UNet, by its shapes alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from sdxl_core.adapter_targets import layer_shapes, resolve_targets
from sdxl_core.errors import UserError
from sdxl_core.training_config import Adapter, TrainingConfig
from sdxl_core.unet_shapes import unet_shapes
from sdxl_core.weight_files.architecture import SDXL

SHAPES = unet_shapes(SDXL["unet"])
assert SHAPES is not None
LAYERS = layer_shapes(SHAPES)


def adapter(**settings: Any) -> Any:
    return TypeAdapter[Any](Adapter).validate_python({"kind": "lora", **settings})


def ranks(**settings: Any) -> dict[str, int]:
    return {name: target.rank for name, target in resolve_targets("unet", adapter(**settings), LAYERS).items()}


def test_presets_have_as_many_layers_as_sdxl_has() -> None:
    """70 transformer blocks in 11 transformers: 8 layers of attention each, 2 of feed-forward; kohya's 722 in all."""
    assert len(ranks(targets="attention")) == 70 * 8
    assert len(ranks(targets="attention+feed-forward")) == 70 * 10
    assert len(ranks(targets="all-linear")) == 70 * 10 + 11 * 2 == 722


def test_convolutions_are_those_of_resnets_and_samplers() -> None:
    """17 ResNet blocks of two, those that change their width with a third; two samplers down and two up."""
    added = ranks(conv_rank=4).keys() - ranks().keys()
    assert len(added) == 17 * 2 + sum(name.endswith("conv_shortcut") for name in LAYERS) + 4
    assert {ranks(conv_rank=4)[name] for name in added} == {4}


def test_the_longest_beginning_decides_and_the_scale_stays() -> None:
    config = adapter(
        rank=16,
        alpha=8,
        conv_rank=4,
        conv_alpha=8,
        block_ranks={"mid_block": 32, "mid_block.resnets.1": 0, "up_blocks.0": 2},
    )
    found = resolve_targets("unet", config, LAYERS)
    assert not any(name.startswith("mid_block.resnets.1.") for name in found)
    for name, target in found.items():
        expected = 32 if name.startswith("mid_block") else 2 if name.startswith("up_blocks.0.") else None
        convolution = len(LAYERS[name]) == 4
        assert target.rank == (expected or (4 if convolution else 16))
        assert target.alpha / target.rank == (2.0 if convolution else 0.5)


def test_rank_stabilised_alphas_stay() -> None:
    config = adapter(rank=16, alpha=4, use_rslora=True, block_ranks={"mid_block": 64})
    assert {target.alpha for target in resolve_targets("unet", config, LAYERS).values()} == {4.0}


def test_a_pattern_matches_whole_names() -> None:
    found = ranks(targets="regex: mid_block.*attn2.to_[kv]")
    assert len(found) == 10 * 2 and all(name.endswith((".to_k", ".to_v")) for name in found)
    text = {"text_model.encoder.layers.0.mlp.fc1": (8, 4), "text_model.encoder.layers.0.mlp.fc2": (4, 8)}
    chosen = resolve_targets("text_encoder", adapter(targets=r"regex: text_encoder\..*fc1"), text)
    assert [*chosen] == ["text_model.encoder.layers.0.mlp.fc1"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"targets": "regex: mid_block.attentions.0.proj_inn"}, r"Did you mean 'mid_block.attentions.0.proj_in'\?"),
    ({"targets": "regex: nothing"}, "matches none. There are conv_in"),
    ({"block_ranks": {"mid_blok": 4}}, r"got 'mid_blok'. Did you mean 'mid_block'\?"),
    ({"block_ranks": {"down_blocks.0": 4}}, "expected the beginning of an adapted layer's name"),
    ({"block_ranks": {"up_blocks": 0, "mid_block": 0, "down_blocks": 0}}, "all ranks of unet are 0"),
    ({"init": "pissa", "targets": "regex: .*conv1"}, "is of linear layers, this is a convolution"),
    ({"init": "olora", "rank": 641}, "needs a rank of at most 640"),
    ({"kind": "oft", "targets": "regex: .*conv2"}, "is of linear layers, this is a convolution"),
    ({"kind": "oft", "block_size": 48}, "block_size = 48 does not divide its 640 inputs"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_what_fits_no_layer_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve_targets("unet", adapter(**settings), LAYERS)


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({"targets": "atention"}, "Did you mean 'attention'"),
    ({"targets": "regex: ("}, "is no regular expression"),
    ({"use_rslora": True}, "set alpha too"),
    ({"init": "pissa", "use_dora": True}, "does not go with use_dora"),
    ({"init": "olora", "conv_rank": 4}, "does not go with conv_rank"),
    ({"init": "pissa", "start_from": "/x.safetensors"}, "does not go with start_from"),
    ({"conv_alpha": 4}, "without conv_rank"),
    ({"start_from": "x.safetensors"}, r"begins with \./: \./x\.safetensors"),
    ({"kind": "loha", "init": "pissa"}, "Extra inputs are not permitted"),
    ({"kind": "oft", "conv_rank": 4}, "Extra inputs are not permitted"),
    ({"block_ranks": {"text_encoder": 4}}, "block_ranks: text_encoder: trained are unet; see text_encoders"),
]


@pytest.mark.parametrize(("settings", "said"), NONSENSE)
def test_nonsense_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainingConfig.model_validate({"adapter": settings})


def test_a_place_decides_nothing() -> None:
    """What an adapter begins with counts by its content, which the stage's key holds."""
    config = TrainingConfig.model_validate({"adapter": {"start_from": "/here/lora.safetensors"}})
    assert "/here" not in json.dumps(config.lasting)
    assert config.start_from == "/here/lora.safetensors"
