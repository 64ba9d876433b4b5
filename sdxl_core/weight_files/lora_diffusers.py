"""LoRA files in diffusers' layout: peft's tensors under `unet.`, `text_encoder.` and `text_encoder_2.`.

Ranks and alphas stand in the header, as `lora_adapter_metadata`; without it every alpha is the rank.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft.utils.other import get_pattern_key
from torch import Tensor

from sdxl_core.errors import UserError
from sdxl_core.peft_layers import pattern
from sdxl_core.weight_files.architecture import PARTS, Part
from sdxl_core.weight_files.lora import LoraFile, LoraModule, module_of
from sdxl_core.weight_files.single_file import text_module_name
from sdxl_core.weight_files.streamed import LazyTensor, open_tensors, read_metadata

# as diffusers 0.20 and later write them: peft's, and what peft's were turned into
_ENDINGS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
}
_KEY = re.compile(rf"({'|'.join(PARTS)})\.(.+?)\.({'|'.join(map(re.escape, sorted(_ENDINGS, key=len, reverse=True)))})")
ADAPTER_METADATA = "lora_adapter_metadata"


def is_diffusers(names: list[str]) -> bool:
    return any(name.startswith(tuple(f"{part}." for part in PARTS)) for name in names)


def read_diffusers(file: Path) -> LoraFile:
    """Raises UserError where the file is no LoRA in diffusers' layout, or of another kind (LoHa, LoKr, biases)."""
    metadata = read_metadata(file)
    return lora_of(open_tensors(file), adapter_settings(metadata, file), metadata, file)


def lora_of(
    tensors: Mapping[str, LazyTensor],
    settings: Mapping[Part, Mapping[str, Any]],
    metadata: Mapping[str, str],
    file: Path,
) -> LoraFile:
    """From tensors in diffusers' layout, with peft's arguments by part."""
    pieces: dict[tuple[Part, str], dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise UserError.about(str(file), expected="weights of a LoRA in diffusers' layout", got=name)
        part: Part = next(known for known in PARTS if known == match[1])
        module = match[2] if part == "unet" else text_module_name(match[2])
        pieces[part, module][_ENDINGS[match[3]]] = tensor.load()
    modules: dict[Part, dict[str, LoraModule]] = defaultdict(dict)
    for (part, module), found in pieces.items():
        where = f"{file}: {part}.{module}"
        modules[part][module] = module_of(found, alpha_of(settings.get(part), module, found), where)
    return LoraFile(dict(modules), metadata)


def adapter_settings(metadata: Mapping[str, str], file: Path) -> dict[Part, dict[str, Any]]:
    """peft's arguments by part, from a file's header. Raises UserError where they are no JSON object."""
    try:
        document = json.loads(metadata.get(ADAPTER_METADATA, "{}"))
        pairs = {part: [key for key in document if key.startswith(f"{part}.")] for part in PARTS}
        return {part: {key.removeprefix(f"{part}."): document[key] for key in keys} for part, keys in pairs.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError.about(f"{file}: {ADAPTER_METADATA}", expected="a JSON object", got=error) from None


def alpha_of(settings: Mapping[str, Any] | None, module: str, pieces: Mapping[str, Tensor]) -> float | None:
    """peft's rule: the pattern that matches the module, else the common alpha; rank-stabilised scales are unrolled.

    None where the file does not say, which means the rank.
    """
    if not settings or "lora_alpha" not in settings:
        return None
    pattern = settings.get("alpha_pattern") or {}
    alpha = float(pattern.get(get_pattern_key(list(pattern), module), settings["lora_alpha"]))
    rank = pieces["down"].shape[0] if "down" in pieces else 1
    return alpha * rank**0.5 if settings.get("use_rslora") else alpha


def write_pieces(lora: LoraFile) -> dict[str, Tensor]:
    """Name -> tensor of the file in diffusers' layout."""
    out: dict[str, Tensor] = {}
    for part, name, module in lora:
        out[f"{part}.{name}.lora_A.weight"] = module.down
        out[f"{part}.{name}.lora_B.weight"] = module.up
        if module.magnitude is not None:
            is_convolution = module.down.ndim == 4
            shape = (1, -1, 1, 1) if is_convolution else (-1,)
            # the usual name has no `.weight`; under it, transformers 5 leaves a text encoder's unread
            key = "lora_magnitude_vector" if part == "unet" else "lora_magnitude_vector.weight"
            out[f"{part}.{name}.{key}"] = module.magnitude.reshape(shape)
    return out


def adapter_metadata(lora: LoraFile, settings: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The header's `lora_adapter_metadata`: what peft needs to build the same layers. `settings`, by part, add to it.

    Raises:
        UserError: of a part, some modules are DoRA's and some are not, which peft cannot say.
    """
    described: dict[str, Any] = {}
    for part, modules in lora.modules.items():
        ranks = {_ending(name): module.rank for name, module in modules.items()}
        alphas = {_ending(name): module.alpha for name, module in modules.items()}
        adapter: dict[str, Any] = {"r": _commonest(ranks), "lora_alpha": _commonest(alphas), "lora_dropout": 0.0}
        adapter["target_modules"] = sorted(ranks)
        patterns = {
            "rank_pattern": pattern(ranks, adapter["r"]),
            "alpha_pattern": pattern(alphas, adapter["lora_alpha"]),
        }
        adapter |= {key: others for key, others in patterns.items() if others}
        adapter |= {"use_dora": True} if _is_dora(part, modules) else {}
        adapter |= (settings or {}).get(part, {})
        described |= {f"{part}.{key}": value for key, value in adapter.items()}
    return json.dumps(described, sort_keys=True)


def _is_dora(part: Part, modules: Mapping[str, LoraModule]) -> bool:
    with_magnitude = [name for name, module in modules.items() if module.magnitude is not None]
    if len(with_magnitude) not in (0, len(modules)):
        got = f"{len(with_magnitude)} of {len(modules)}"
        raise UserError.about(f"{part}: diffusers' layout", expected="a magnitude in every module or in none", got=got)
    return bool(with_magnitude)


def _commonest(values: Mapping[str, Any]) -> Any:
    return Counter(values[name] for name in sorted(values)).most_common(1)[0][0]


def _ending(name: str) -> str:
    """Without `text_model.`, which transformers' newer text encoders no longer have."""
    return name.removeprefix("text_model.")
