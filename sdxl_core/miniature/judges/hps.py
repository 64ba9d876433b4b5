"""`hps`: another opinion on which of two pictures is the better one for a prompt, as HPS an open_clip checkpoint.

It learns as `pick` does, from families of its own. Its picture tower begins as that of the shipped CLIP; its text
tower, which reads the tokens of OpenAI's CLIP as open_clip does, first imitates that CLIP's.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from sdxl_core.miniature.fit import Schedule, fit, write_json
from sdxl_core.miniature.judges.pick import Lessons, Towers, clip_towers
from sdxl_core.miniature.networks import CLIP_WIDTH
from sdxl_core.miniature.render import SIDE_PX
from sdxl_core.miniature.world import caption, draw_person
from sdxl_core.tensor_files import write_tensors

CHECKPOINT, CONFIG = "hps.safetensors", "architecture.json"
TEXT_WIDTH, VISION_LAYERS = 32, 3
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": CLIP_WIDTH,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": SIDE_PX,
        "layers": VISION_LAYERS,
        "width": CLIP_WIDTH,
        "head_width": CLIP_WIDTH // 4,
        "patch_size": 8,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": TEXT_WIDTH, "heads": 2, "layers": 2},
}
FAMILIES = 1_600
CAPTIONS, CAPTIONS_AT_ONCE = 20_000, 96
IMITATION = Schedule(steps=500, learning_rate=3e-3, warmup_steps=50, decay_share=0.5, ema_decay=0.99)
SCHEDULE = Schedule(steps=900, learning_rate=1e-3, warmup_steps=50, decay_share=0.5, ema_decay=0.99)

# N pictures, B prompts, S tokens of one, V tokens in the vocabulary, D width of a tower


def towers(model: CLIP) -> Towers:
    """As open_clip embeds them, without the time that it spends on padding behind a prompt's end.

    Pictures of the network's own size need no resampling.
    """
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))

    def prompts(words: list[str]) -> Tensor:
        ids_BS = _tokenizer()(words)
        ends_B = ids_BS.argmax(dim=1)  # the end token has the highest number, and sees all before it
        length = int(ends_B.max()) + 1
        x_BSD = model.token_embedding(ids_BS[:, :length]) + model.positional_embedding[:length]
        x_BSD = model.ln_final(model.transformer(x_BSD, attn_mask=model.attn_mask[:length, :length]))
        return F.normalize(x_BSD[torch.arange(len(words)), ends_B] @ model.text_projection, dim=1)

    return Towers(
        prompts=prompts,
        pictures=lambda x_N3HW: model.encode_image((x_N3HW.float() / 255 - mean) / std, normalize=True),
    )


def load(folder: Path) -> CLIP:
    """In float32."""
    model = CLIP(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / CHECKPOINT).items()})
    return model.eval()


def save(folder: Path, model: CLIP, note: str) -> None:
    """The checkpoint in float16, and its architecture as open_clip's own configuration file."""
    folder.mkdir(exist_ok=True)
    write_tensors(folder / CHECKPOINT, {name: t.half() for name, t in model.state_dict().items()}, {"note": note})
    write_json(folder / CONFIG, ARCHITECTURE)


def train(work: Path, clip_folder: Path, vae: AutoencoderKL) -> tuple[CLIP, dict[str, float]]:
    clip = CLIPModel.from_pretrained(clip_folder, dtype=torch.float32).eval()
    lessons = Lessons("hps/train", FAMILIES, vae)
    rng = random.Random("hps/captions")
    captions = [caption(draw_person(rng), rng) for _ in range(CAPTIONS)]
    model = CLIP(**ARCHITECTURE)
    model.visual.load_state_dict(visual_of(clip))
    _forget_unmet(model, [*captions, *lessons.prompts])
    with torch.no_grad():
        model.logit_scale.copy_(clip.logit_scale)
    begun = _imitate(model, clip_towers(clip, CLIPTokenizer.from_pretrained(clip_folder)), captions, work)
    learned = nn.ModuleList([model, lessons])
    figures = fit("hps", learned, lambda g: lessons.loss(towers(model), model.logit_scale.exp(), g), SCHEDULE, work)
    return model, figures | {f"text_{name}": value for name, value in begun.items()}


def _imitate(model: CLIP, teacher: Towers, captions: list[str], work: Path) -> dict[str, float]:
    """Bring the prompts' embeddings to where the teacher's are."""

    def loss(g: torch.Generator) -> Tensor:
        words = [captions[i] for i in torch.randint(len(captions), (CAPTIONS_AT_ONCE,), generator=g).tolist()]
        with torch.no_grad():
            wanted_BD = teacher.prompts(words)
        return 1 - (towers(model).prompts(words) * wanted_BD).sum(dim=1).mean()

    model.visual.requires_grad_(False)
    figures = fit("hps-text", model, loss, IMITATION, work)
    model.visual.requires_grad_(True)
    return figures


@torch.no_grad()
def _forget_unmet(model: CLIP, prompts: list[str]) -> None:
    """Tokens that are in none of the prompts mean nothing: zeros, which compressed take no room."""
    met_V = torch.zeros(model.vocab_size, dtype=torch.bool)
    for start in range(0, len(prompts), 1_000):
        met_V[_tokenizer()(prompts[start : start + 1_000]).unique()] = True
    model.token_embedding.weight[~met_V] = 0


def visual_of(clip: CLIPModel) -> dict[str, Tensor]:
    """The first layers of transformers' picture tower, by open_clip's names and for pictures normalised as OpenAI's."""
    vision = clip.vision_model
    patches_D3PP = vision.embeddings.patch_embedding.weight.detach()
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    # 2 p - 1 = 2 std ((p - mean) / std) + (2 mean - 1), and what every patch gets can be its position's
    constant_D = (patches_D3PP * (2 * mean - 1)).sum(dim=(1, 2, 3))
    positions = vision.embeddings.position_embedding.weight.detach().clone()
    positions[1:] += constant_D
    stored = {
        "class_embedding": vision.embeddings.class_embedding.detach(),
        "positional_embedding": positions,
        "proj": clip.visual_projection.weight.detach().T.contiguous(),
        "conv1.weight": patches_D3PP * 2 * std,
    }
    for ours, theirs in (("ln_pre", vision.pre_layrnorm), ("ln_post", vision.post_layernorm)):
        stored |= {f"{ours}.{part}": tensor for part, tensor in theirs.state_dict().items()}
    for i, layer in enumerate(vision.encoder.layers[:VISION_LAYERS]):
        stored |= {f"transformer.resblocks.{i}.{name}": tensor for name, tensor in _block(layer).items()}
    return stored


def _block(layer: Any) -> dict[str, Tensor]:
    modules = {
        "ln_1": layer.layer_norm1,
        "attn.out_proj": layer.self_attn.out_proj,
        "ln_2": layer.layer_norm2,
        "mlp.c_fc": layer.mlp.fc1,
        "mlp.c_proj": layer.mlp.fc2,
    }
    stored = {f"{name}.{part}": t for name, module in modules.items() for part, t in module.state_dict().items()}
    three = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
    for part in ("weight", "bias"):
        stored[f"attn.in_proj_{part}"] = torch.cat([getattr(one, part).detach() for one in three])
    return stored


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer(context_length=ARCHITECTURE["text_cfg"]["context_length"])
