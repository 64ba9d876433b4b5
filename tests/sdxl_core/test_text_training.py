"""Text encoders and new tokens in training: what learns, what does not, and what other programs load of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import Tensor

from sdxl_core.adapters import Addition, load_trained
from sdxl_core.bundle import read_bundle
from sdxl_core.errors import UserError
from sdxl_core.exit_codes import EXIT_USER_ERROR
from sdxl_core.families import SDXL
from sdxl_core.learned_tokens import add_tokens
from sdxl_core.model import load_whole
from sdxl_core.run import set_up
from sdxl_core.text_encoders import TextEncoders, Tokenizers
from sdxl_core.train import main, train
from sdxl_core.train_job import TrainJob
from sdxl_core.trained import Trained
from sdxl_core.training_config import NewToken, TrainingConfig
from tests.sdxl_core.jobs import Jobs, files, run, write_job

CPU = torch.device("cpu")
TOKEN = "<kestrel>"
PROMPT = f"a photo of {TOKEN} person in the snow"
LORA = {"kind": "lora", "rank": 2}
TEXT_ENCODERS: dict[str, Any] = {"text_encoders": {}, "ema": None, "caption_dropout": 0.2}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": LORA, **TEXT_ENCODERS},
    "full": {"adapter": {"kind": "full"}, **TEXT_ENCODERS, "learning_rate": 1e-4},
    "textual_inversion": {"adapter": {"kind": "none"}, "new_tokens": [{"token": TOKEN, "vectors": 2}], "ema": None},
    "pivotal": {"adapter": LORA, **TEXT_ENCODERS, "new_tokens": [{"token": TOKEN, "initializer": "person"}]},
}


def job_of(jobs: Jobs, root: Path, **training: Any) -> TrainJob:
    """Without cached text, and with the token in every caption."""
    latents = root / "latents"
    shutil.copytree(jobs.inputs["latents"], latents)
    rows = [json.loads(line) for line in (latents / "index.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**row, "text": f"a photo of {TOKEN} person"}) + "\n" for row in rows)
    (latents / "index.jsonl").write_text(text)
    return jobs(root, max_steps=4, **training).model_copy(update={"latents": latents, "text": None})


def trained_names(job: TrainJob) -> dict[str, Tensor]:
    return read_bundle(job.work / "bundles" / "step-00000004").weights


@pytest.mark.ci
@pytest.mark.parametrize("method", METHODS)
def test_a_run_made_longer_equals_a_long_one(jobs: Jobs, tmp_path: Path, method: str) -> None:
    long = job_of(jobs, tmp_path / "long", **METHODS[method])
    assert run(long)
    short = job_of(jobs, tmp_path / "short", **METHODS[method])
    fewer = short.model_copy(update={"training": short.training.model_copy(update={"max_steps": 2})})
    assert run(fewer)
    shutil.rmtree(short.out)
    assert run(short)
    assert files(short.out) == files(long.out)


def test_every_part_learns(jobs: Jobs, tmp_path: Path) -> None:
    job = job_of(jobs, tmp_path, **METHODS["pivotal"])
    assert run(job)
    weights = trained_names(job)
    assert {name.split(".")[0] for name in weights} == {"unet", *SDXL.encoders, "tokens"}
    # the last layer of either encoder is behind the states that SDXL reads; the second's still feeds the pooled text
    unread = [name for name in weights if name.startswith("text_encoder.encoder.layers.2")]
    still = [name for name, weight in weights.items() if name.endswith("lora_B.default.weight") and not weight.any()]
    assert sorted(still) == sorted(name for name in unread if "lora_B" in name)


def test_encoders_that_stop_stay_and_the_unet_learns_on(jobs: Jobs, tmp_path: Path) -> None:
    """Bit for bit, from the step that is named; and the last step before it still counts."""
    job = job_of(jobs, tmp_path, **METHODS["lora"] | {"text_encoders": {"until_step": 2}, "save_every_steps": 1})
    assert run(job.model_copy(update={"training": job.training.model_copy(update={"keep_bundles": 4})}))
    steps = [read_bundle(job.work / "bundles" / f"step-0000000{step}").weights for step in (1, 2, 4)]
    for part, moves in (("unet", True), *((name, False) for name in SDXL.encoders)):
        before, stopped, last = (
            {name: weight for name, weight in weights.items() if name.startswith(f"{part}.")} for weights in steps
        )
        assert any(not torch.equal(before[name], stopped[name]) for name in stopped)
        assert any(not torch.equal(stopped[name], last[name]) for name in stopped) is moves


def test_the_vocabulary_does_not_move(jobs: Jobs, tmp_path: Path) -> None:
    """Weight decay included: only new tokens learn, where nothing else is to."""
    job = job_of(jobs, tmp_path, **METHODS["textual_inversion"])
    assert run(job)
    assert set(trained_names(job)) == {"tokens.text_encoder", "tokens.text_encoder_2"}
    pipeline = StableDiffusionXLPipeline.from_pretrained(jobs.model)
    before = pipeline.text_encoder.get_input_embeddings().weight.clone()
    load_trained(pipeline, Addition(job.out))
    after = pipeline.text_encoder.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before) and len(after) == len(before) + 2


EXPORTS = (
    ("lora", "lora"),
    ("lora", "kohya"),
    ("full", "full"),
    ("textual_inversion", "tokens"),
    ("pivotal", "tokens lora"),
    ("pivotal", "tokens kohya"),
)
"""Methods, and the files of each that other programs load."""
STRANGER = """
import json, sys, torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from diffusers import UNet2DConditionModel
model, prompt, exports = sys.argv[1:]
for trained, kind, out in json.loads(exports):
    pipe = StableDiffusionXLPipeline.from_pretrained(model, add_watermarker=False)
    if "tokens" in kind:
        embeddings = load_file(f"{trained}/embeddings/kestrel.safetensors")
        for key, tokenizer, encoder in (("clip_l", pipe.tokenizer, pipe.text_encoder),
                                        ("clip_g", pipe.tokenizer_2, pipe.text_encoder_2)):
            pipe.load_textual_inversion(embeddings[key], token="<kestrel>", tokenizer=tokenizer, text_encoder=encoder)
    if "lora" in kind:
        pipe.load_lora_weights(trained, weight_name="pytorch_lora_weights.safetensors")
    if "kohya" in kind:
        pipe.load_lora_weights(trained, weight_name="kohya_lora.safetensors")
    if "full" in kind:
        pipe.unet = UNet2DConditionModel.from_pretrained(f"{trained}/unet")
        pipe.text_encoder = CLIPTextModel.from_pretrained(f"{trained}/text_encoder")
        pipe.text_encoder_2 = CLIPTextModelWithProjection.from_pretrained(f"{trained}/text_encoder_2")
    with torch.no_grad():
        text, _, pooled, _ = pipe.encode_prompt([prompt])
        ids = {"text_embeds": pooled, "time_ids": torch.full((1, 6), 64.0)}
        noisy = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0))
        predicted = pipe.unet(noisy, torch.tensor([500]), text, added_cond_kwargs=ids).sample
    save_file({"text": text.contiguous(), "pooled": pooled.contiguous(), "predicted": predicted.contiguous()}, out)
"""


@pytest.fixture(scope="module")
def trained(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainJob]:
    """Every method's run, at a rate at which it shows."""
    root, found = tmp_path_factory.mktemp("methods"), dict[str, TrainJob]()
    for method, settings in METHODS.items():
        faster = {"learning_rate": 0.02} if method != "full" else {}
        found[method] = job_of(jobs, root / method, **settings | faster)
        assert run(found[method])
    return found


@pytest.fixture(scope="module")
def theirs(jobs: Jobs, trained: dict[str, TrainJob]) -> dict[tuple[str, str], dict[str, Tensor]]:
    """What plain diffusers computes with each export, in a process without the project's code."""
    places = {export: trained[export[0]].out.parent / f"{export[1]}.safetensors" for export in EXPORTS}
    exports = json.dumps([(str(trained[method].out), kind, str(out)) for (method, kind), out in places.items()])
    line = [sys.executable, "-I", "-c", STRANGER, str(jobs.model), PROMPT, exports]
    subprocess.run(line, check=True, cwd=trained["lora"].out)
    return {export: load_file(out) for export, out in places.items()}


@pytest.mark.ci
@pytest.mark.ci
@pytest.mark.parametrize(("method", "kind"), EXPORTS)
def test_plain_diffusers_computes_what_was_trained(
    jobs: Jobs,
    trained: dict[str, TrainJob],
    theirs: dict[tuple[str, str], dict[str, Tensor]],
    method: str,
    kind: str,
) -> None:
    """The export gives the training networks' own numbers."""
    job = trained[method]
    AcceleratorState._reset_state(reset_partial_state=True)
    finished = set_up(job)
    finished.restore(read_bundle(job.work / "bundles" / "step-00000004"))
    with torch.no_grad():
        compare(jobs, finished.trained, theirs[method, kind], kind)


def compare(jobs: Jobs, ours: Trained, theirs: dict[str, Tensor], kind: str) -> None:
    networks, tokenizers = ours.networks, ours.tokenizers
    assert networks.text_encoders is not None and tokenizers is not None
    for part in networks.parts.values():
        part.eval()
    text, pooled = networks.text_encoders(tokenizers.chunks(PROMPT)[None])
    noisy = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(0))
    ids = {"text_embeds": pooled, "time_ids": torch.full((1, 6), 64.0)}
    own = networks.unet(noisy, torch.tensor([500]), text, added_cond_kwargs=ids).sample
    assert torch.allclose(theirs["text"], text, atol=1e-4)
    assert torch.allclose(theirs["pooled"], pooled, atol=1e-4)
    assert torch.allclose(theirs["predicted"], own, atol=1e-3)
    if kind.startswith(("lora", "kohya")):
        untrained = load_whole(type(networks.parts["text_encoder"]), jobs.model / "text_encoder", torch.float32)
        first = untrained(tokenizers.chunks(PROMPT)[0], output_hidden_states=True).hidden_states[-2]
        assert not torch.allclose(first, text[:, :, : first.shape[-1]], atol=1e-3), "the encoder learned something"


@torch.no_grad()
def test_new_words_do_not_move_where_text_is_pooled(random_sdxl: Path, tmp_path: Path) -> None:
    """SDXL's second encoder has eos_token_id = 2, at which transformers pools at the largest id: the new word's."""
    for name in ("text_encoder", "text_encoder_2"):
        shutil.copytree(random_sdxl / name, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text()) | {"eos_token_id": 2}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    shutil.copytree(random_sdxl / "unet", tmp_path / "unet")  # by which the family is known
    tokenizers, encoders = Tokenizers.load(random_sdxl), TextEncoders.load(tmp_path, CPU)
    add_tokens(tokenizers, encoders, [NewToken(token=TOKEN, initializer="person")], seed=0)
    ids = tokenizers.chunks(f"a photo of {TOKEN} in the snow")[None]
    same = tokenizers.chunks("a photo of person in the snow")[None]
    assert torch.equal(encoders(ids)[0], encoders(same)[0]) and torch.equal(encoders(ids)[1], encoders(same)[1])


def test_tokens_begin_as_they_are_told(random_sdxl: Path) -> None:
    tokenizers, encoders = Tokenizers.load(random_sdxl), TextEncoders.load(random_sdxl, CPU)
    table = encoders.each[0].get_input_embeddings().weight.clone()  # type: ignore[operator]
    person, red = (tokenizers.words(word)[0] for word in ("person", "red"))
    tokens = [NewToken(token="<a>", initializer="red person", vectors=3), NewToken(token="<b>", vectors=2)]
    trained = add_tokens(tokenizers, encoders, tokens, seed=0)
    rows = trained["tokens.text_encoder"]
    assert torch.equal(rows[:3], table[[red, person, red]])
    assert rows.shape == (5, table.shape[1]) and rows.dtype == torch.float32
    assert float(rows[3:].std()) == pytest.approx(float(table.std()), rel=0.5)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"new_tokens": [{"token": "<corvo>"}]}, "expected captions that name <corvo>"),
        ({"new_tokens": [{"token": TOKEN, "initializer": "  "}]}, "holds no words"),
    ],
)
def test_tokens_that_cannot_learn_are_refused(
    jobs: Jobs, tmp_path: Path, training: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(jobs, tmp_path, adapter={"kind": "none"}, **training)
    assert main([str(write_job(job))]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err


def test_cached_text_is_refused_where_its_encoders_learn(jobs: Jobs, tmp_path: Path) -> None:
    job = job_of(jobs, tmp_path, **METHODS["lora"]).model_copy(update={"text": jobs.inputs["text"]})
    with pytest.raises(UserError, match="captions are encoded before training exactly where"):
        train(job)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": {"kind": "none"}}, "trains nothing but new_tokens"),
        ({"adapter": {"kind": "none"}, "new_tokens": [{"token": TOKEN}], "text_encoders": {}}, "set adapter.kind"),
        ({"new_tokens": [{"token": TOKEN}, {"token": TOKEN}]}, "stands twice"),
        ({"new_tokens": [{"token": "kestrel"}]}, "should match pattern"),
        ({"new_tokens": [{"token": "<Kestrel>"}]}, "should match pattern"),
        ({"text_encoders": {"first": False, "second": False}}, "got neither"),
    ],
)
def test_what_makes_no_sense_is_no_configuration(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig.model_validate(settings)


def test_validation_pictures_see_the_encoders_as_they_are(jobs: Jobs, tmp_path: Path) -> None:
    watched = {"every_steps": 2, "prompts": [PROMPT]}
    job = job_of(jobs, tmp_path, **METHODS["textual_inversion"] | {"learning_rate": 0.3}, validation=watched)
    assert run(job)
    early, late = ((job.out / "validation" / f"{step:06d}-00.png").read_bytes() for step in (2, 4))
    assert early != late, "only the tokens learn, so only they can change the picture"
