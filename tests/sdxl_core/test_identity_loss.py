"""The identity loss on the miniature: what it adds, to which rows, and that it does what it is for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, DDPMScheduler
from pydantic import ValidationError
from torch import Tensor

import sdxl_core.miniature
from sdxl_core.bundle import read_bundle
from sdxl_core.config import TransformConfig
from sdxl_core.denoiser import Denoiser
from sdxl_core.errors import UserError
from sdxl_core.identity.loss import IdentityLoss
from sdxl_core.latents import encode_latents
from sdxl_core.run import Run, set_up
from sdxl_core.schedule import NoiseSchedule
from sdxl_core.text import encode_text
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config import TrainingConfig
from tests.sdxl_core.conftest import write_portraits
from tests.sdxl_core.face_models import iresnet
from tests.sdxl_core.identity_inputs import write_identity
from tests.sdxl_core.jobs import LORA, Jobs, files, history, run, write_job

SDXL = Path(sdxl_core.miniature.__file__).parent / "weights" / "sdxl"
TRANSFORM = TransformConfig(resolution_px=64, flip=True)
PLAIN: dict[str, Any] = {"objective": {"kind": "diffusion"}, "adapter": LORA, "ema": None, "caption_dropout": 0.0}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "diffusion": {"kind": "diffusion"},
    "prior_preservation": {"kind": "prior_preservation"},
    "prior_prediction": {"kind": "prior_prediction", "class_prompt": "a photo of a person"},
}


class IdentityJobs:
    """Jobs on the miniature's checkpoint whose pictures' faces are known."""

    def __init__(self, root: Path) -> None:
        self.root = root
        folders = {"dataset": write_portraits(root / "dataset", 4, seed=1)}
        folders["class_dataset"] = write_portraits(root / "class", 3, seed=2, text="a photo of a person")
        for name, dataset in (("latents", "dataset"), ("class_latents", "class_dataset")):
            folders[name] = root / name
            encode_latents(
                transform=TRANSFORM,
                dataset=folders[dataset],
                vae=SDXL / "vae",
                vae_digest="v",
                out=folders[name],
                cells={},
            )
        folders["text"] = root / "text"
        datasets = [folders["dataset"], folders["class_dataset"]]
        encode_text(datasets=datasets, model=SDXL, model_digest="m", out=folders["text"], cells={})
        write_identity(root, folders["dataset"], TRANSFORM)
        self.jobs = Jobs(SDXL, folders)

    def __call__(self, root: Path, identity: dict[str, Any] | None = None, **training: Any) -> TrainJob:
        face_model = str(self.root / "face.onnx")
        given = None if identity is None else {"face_model": face_model, **identity}
        job = self.jobs(root, **{**PLAIN, **training, "consistency": {"identity_loss": given}})
        if identity is None:
            return job
        return job.model_copy(update={"face_targets": self.root / "identity", "face_model": Path(face_model)})


@pytest.fixture(scope="module")
def identity_jobs(tmp_path_factory: pytest.TempPathFactory) -> IdentityJobs:
    return IdentityJobs(tmp_path_factory.mktemp("identity"))


def started(job: TrainJob) -> Run:
    AcceleratorState._reset_state(reset_partial_state=True)
    return set_up(job)


def cosines(there: Run, slots: range = range(24), step: int = 1000) -> Tensor:
    """Of rows that no training has seen, at little noise."""
    assert isinstance(there.objective, IdentityLoss)
    batch, denoiser = there.data.batch(step, slots), there.state.denoiser
    batch = replace(batch, t_B=batch.t_B % 250)
    assert batch.faces is not None
    with torch.no_grad():
        return there.objective.cosine(denoiser.predicted_x(batch, denoiser.predict(batch)), batch.faces)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_right_prediction_stands_for_the_picture_itself(prediction_type: str) -> None:
    """And any other for what diffusers' own scheduler says."""
    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    theirs.register_to_config(prediction_type=prediction_type)
    ours = NoiseSchedule(theirs.alphas_cumprod.double(), prediction_type)
    x, eps, other = torch.randn((3, 4, 4, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0, 100, 500, 999])
    noisy = ours.add_noise(x, eps, t)
    assert torch.allclose(ours.picture(noisy, ours.target(x, eps, t), t), x)
    for row, timestep in enumerate(t):
        expected = theirs.step(other[row], timestep, noisy[row]).pred_original_sample
        assert torch.allclose(ours.picture(noisy, other, t)[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.ci
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_is_added_is_worked_out_by_hand(identity_jobs: IdentityJobs, tmp_path: Path, objective: str) -> None:
    """For each instance row below the limit, with diffusers' VAE and torch's sampler; class rows have none."""
    settings = {"objective": OBJECTIVES[objective], "micro_batch_size": 6}
    there = started(identity_jobs(tmp_path, {"weight": 2.0, "max_timestep": 500}, **settings))
    assert isinstance(there.objective, IdentityLoss)
    batch, denoiser = there.data.batch(0, range(6)), there.state.denoiser
    assert batch.faces is not None
    shown = batch.faces.shown_B.tolist()
    assert shown == [True] * 6 + [False] * (len(shown) - 6)
    plain, output = there.objective.objective(denoiser, batch), there.objective(denoiser, batch)
    vae = AutoencoderKL.from_pretrained(SDXL / "vae", dtype=torch.float32)
    added, chosen = 0.0, [i for i in range(6) if batch.t_B[i] < 500]
    with torch.no_grad():
        predicted = denoiser.predict(batch)
        for i in chosen:
            abar = denoiser.schedule.alphas_cumprod_T[batch.t_B[i]]
            noisy = abar.sqrt() * batch.x_BCHW[i] + (1 - abar).sqrt() * batch.input_eps_BCHW[i]
            x = (noisy - (1 - abar).sqrt() * predicted[i]) / abar.sqrt()
            picture = vae.decode(x[None] / vae.config.scaling_factor).sample
            row = batch.faces.map(lambda tensor, i=i: tensor[i : i + 1])
            face = torch.nn.functional.grid_sample(picture, grid_of(row.alignment_B23), align_corners=True)
            embedding = there.objective.recogniser(face)
            added += 2.0 * (1 - float(embedding[0] @ row.reference_BD[0])) / 6
    assert 0 < len(chosen) < 6 and added > 1e-3
    assert float((output.loss - plain.loss).detach()) == pytest.approx(added, rel=1e-3)
    cosine, count = output.ratios["identity"]
    assert int(count) == len(chosen) and float(cosine) == pytest.approx(len(chosen) - added * 6 / 2, rel=1e-4)
    assert output.scalars.keys() == plain.scalars.keys()


def grid_of(alignment_B23: Tensor) -> Tensor:
    """For torch's own sampler: every face here is smaller than the template, so that one sample a pixel is all."""
    v, u = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
    xy = torch.stack([u, v, torch.ones_like(u)], -1) @ alignment_B23[0].T
    return (xy / 63 * 2 - 1)[None]


def test_a_concept_s_weight_counts_here_too(identity_jobs: IdentityJobs, tmp_path: Path) -> None:
    def added(root: Path, weight: float) -> float:
        settings = {"concepts": {"(none)": {"loss_weight": weight}}}
        there = started(identity_jobs(root, {"max_timestep": 1000}, **settings))
        assert isinstance(there.objective, IdentityLoss)
        batch, denoiser = there.data.batch(0, range(4)), there.state.denoiser
        with torch.no_grad():
            return float(there.objective(denoiser, batch).loss - there.objective.objective(denoiser, batch).loss)

    assert added(tmp_path / "a", 3.0) == pytest.approx(3 * added(tmp_path / "b", 1.0), rel=1e-3)


@pytest.mark.ci
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_is_the_same_however_it_is_split(identity_jobs: IdentityJobs, tmp_path: Path, objective: str) -> None:
    """Loss and gradients of eight rows at once, and of the same as passes of two and of one."""
    settings = {"objective": OBJECTIVES[objective], "micro_batch_size": 8}
    there = started(identity_jobs(tmp_path, {"weight": 5.0, "max_timestep": 400}, **settings))

    def step(size: int) -> tuple[Tensor, Tensor]:
        loss = torch.zeros(())
        for parameter in there.state.parameters:
            parameter.grad = None
        for first in range(0, 8, size):
            output = there.objective(there.state.denoiser, there.data.batch(0, range(first, first + size)))
            (output.loss * size / 8).backward()
            loss += output.loss.detach() * size / 8
        return loss, torch.cat([p.grad.flatten() for p in there.state.parameters if p.grad is not None])

    loss, gradient = step(8)
    for size in (2, 1):
        other_loss, other_gradient = step(size)
        assert torch.allclose(other_loss, loss, rtol=1e-4)
        assert float((other_gradient - gradient).norm()) < 1e-3 * float(gradient.norm())


def test_gradients_come_from_rows_below_the_limit_alone(identity_jobs: IdentityJobs, tmp_path: Path) -> None:
    there = started(identity_jobs(tmp_path, {"max_timestep": 300}))
    assert isinstance(there.objective, IdentityLoss)
    batch, denoiser = there.data.batch(0, range(1)), there.state.denoiser

    def added(t: int) -> float:
        """Norm of the gradient of what is added, with respect to the trained weights."""
        given = replace(batch, t_B=torch.tensor([t]))
        assert isinstance(there.objective, IdentityLoss)
        loss = there.objective(denoiser, given).loss - there.objective.objective(denoiser, given).loss
        gradients = torch.autograd.grad(loss, there.state.parameters, allow_unused=True)
        return float(torch.cat([g.flatten() for g in gradients if g is not None]).norm())

    assert added(299) > 1e-5 and added(300) == 0
    assert all(p.grad is None and not p.requires_grad for p in there.objective.vae.parameters())


def test_checkpointing_the_decoder_changes_no_gradient(identity_jobs: IdentityJobs, tmp_path: Path) -> None:
    def gradient(root: Path, checkpointing: bool) -> Tensor:
        there = started(identity_jobs(root, {"max_timestep": 1000}, gradient_checkpointing=checkpointing))
        there.state.denoiser.networks.unet.train()
        there.objective(there.state.denoiser, there.data.batch(0, range(2))).loss.backward()
        return torch.cat([p.grad.flatten() for p in there.state.parameters if p.grad is not None])

    plain, checkpointed = gradient(tmp_path / "a", False), gradient(tmp_path / "b", True)
    assert torch.allclose(plain, checkpointed, rtol=1e-4, atol=1e-7)


@pytest.mark.ci
def test_it_brings_faces_nearer(identity_jobs: IdentityJobs, tmp_path: Path) -> None:
    """On noise that training has not seen, nearer than before, and nearer than without it."""
    settings = {"max_steps": 10, "save_every_steps": 10, "micro_batch_size": 4, "timesteps": {"high": 250}}
    settings |= {"learning_rate": 2e-3, "adapter": {"kind": "lora", "rank": 8}}

    def after(job: TrainJob) -> float:
        assert run(job)
        there = started(judged)
        there.restore(read_bundle(job.work / "bundles" / "step-00000010"))
        return float(cosines(there).mean())

    identity = {"weight": 3.0, "reference": "picture"}
    judged = identity_jobs(tmp_path / "with", identity, **settings)
    before = float(cosines(started(judged)).mean())
    there, without = after(judged), after(identity_jobs(tmp_path / "without", None, **settings))
    assert 1 - there < 0.9 * (1 - before)
    assert 1 - there < 0.9 * (1 - without)
    logged = [row["identity"] for row in history(judged)]
    assert sum(logged[-4:]) > sum(logged[:4])


@pytest.mark.ci
def test_a_run_tells_its_cosine_and_its_rows(identity_jobs: IdentityJobs, tmp_path: Path) -> None:
    """Over all passes of a step: the mean of the rows that have one, null where there is none."""
    settings = {"max_steps": 5, "micro_batch_size": 1}
    job = identity_jobs(tmp_path / "a", {"max_timestep": 200}, **settings, accumulation_steps=3)
    assert run(job)
    rows = history(job)
    data = started(job).data
    for step, row in enumerate(rows):
        count = int((data.batch(step, range(3)).t_B < 200).sum())
        assert row["identity/rows"] == pytest.approx(count)
        assert (row["identity"] is None) == (count == 0)
        assert count == 0 or 0 < row["identity"] <= 1
    assert {row["identity"] is None for row in rows} == {True, False}
    plain = identity_jobs(tmp_path / "b", None, **settings)
    assert run(plain)
    assert not any("identity" in name for row in history(plain) for name in row)


@pytest.mark.ci
def test_a_run_that_is_stopped_ends_with_the_same_bits(identity_jobs: IdentityJobs, tmp_path: Path) -> None:
    settings = {"objective": OBJECTIVES["prior_preservation"], "max_steps": 4}
    straight = identity_jobs(tmp_path / "straight", {"max_timestep": 600}, **settings)
    assert run(straight)
    assert run(identity_jobs(tmp_path / "halves", {"max_timestep": 600}, **settings | {"max_steps": 2}))
    halves = identity_jobs(tmp_path / "halves", {"max_timestep": 600}, **settings)
    halves = halves.model_copy(update={"out": tmp_path / "out"})
    assert run(halves)
    assert files(halves.out) == files(straight.out)
    assert (halves.work / "history.jsonl").read_bytes() == (straight.work / "history.jsonl").read_bytes()


def test_where_the_face_model_lies_is_no_setting_of_the_run(identity_jobs: IdentityJobs, tmp_path: Path) -> None:
    job = identity_jobs(tmp_path, {}, max_steps=1)
    moved = job.training.model_copy(
        update={"consistency": TrainingConfig.model_validate(PLAIN | identity_at("/elsewhere.onnx")).consistency}
    )
    assert moved.lasting == job.training.lasting
    heavier = TrainingConfig.model_validate(PLAIN | identity_at("/elsewhere.onnx", weight=0.2))
    assert heavier.lasting["consistency"] != job.training.lasting["consistency"]


def identity_at(face_model: str, **settings: Any) -> dict[str, Any]:
    return {"consistency": {"identity_loss": {"face_model": face_model, **settings}}}


def test_what_does_not_fit_is_refused(identity_jobs: IdentityJobs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_timestep: expected at most 1000, all there are, got 1001"):
        started(identity_jobs(tmp_path, {"max_timestep": 1001}))
    job = identity_jobs(tmp_path, {})
    for missing in ("face_targets", "face_model"):
        with pytest.raises(UserError, match="expected where the faces are, and a face model"):
            started(job.model_copy(update={missing: None}))
    with pytest.raises(ValidationError, match=r"got max_timestep 250 and low 250"):
        TrainingConfig.model_validate(identity_at("/x.onnx") | {"timesteps": {"low": 250}})
    with pytest.raises(ValidationError, match="greater than 0"):
        TrainingConfig.model_validate(identity_at("/x.onnx", weight=0))


def test_another_recogniser_than_the_one_that_embedded_is_refused(identity_jobs: IdentityJobs, tmp_path: Path) -> None:
    job = identity_jobs(tmp_path, {})
    other = iresnet(tmp_path / "other.onnx")
    with pytest.raises(UserError, match="embeddings of 49 numbers, got 32"):
        started(job.model_copy(update={"face_model": other}))


def test_a_prediction_is_kept_only_of_the_batch_that_was_given(identity_jobs: IdentityJobs, tmp_path: Path) -> None:
    """An objective that predicts something else last would have its faces compared with others' references."""
    there = started(identity_jobs(tmp_path, {}))
    assert isinstance(there.objective, IdentityLoss)
    inner = there.objective.objective

    class Stray:
        uses_class_images, class_prompt, uses_base = False, None, False

        def __call__(self, denoiser: Denoiser, batch: Any) -> Any:
            output = inner(denoiser, batch)
            denoiser.predict(batch.rows(slice(0, 1)))
            return output

    there.objective.objective = Stray()
    with pytest.raises(AssertionError, match="the batch that it is given"):
        there.objective(there.state.denoiser, there.data.batch(0, range(2)))


@pytest.mark.slow
def test_two_processes_compute_what_one_computes(identity_jobs: IdentityJobs, tmp_path: Path) -> None:
    """Also where a process has no row with a face at little noise, and the other has."""
    settings = {"max_steps": 4, "accumulation_steps": 1}
    one = identity_jobs(tmp_path / "one", {"max_timestep": 400, "weight": 3.0}, **settings, micro_batch_size=2)
    assert run(one)
    two = identity_jobs(tmp_path / "two", {"max_timestep": 400, "weight": 3.0}, **settings, micro_batch_size=1)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "sdxl_core.train", str(write_job(two))]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 1 in {row["identity/rows"] for row in history(one)}
    for ours, theirs in zip(history(one), history(two), strict=True):
        assert theirs["identity/rows"] == ours["identity/rows"]
        for name in ("loss", "identity", "grad_norm"):
            assert (theirs[name] is None) == (ours[name] is None)
            assert ours[name] is None or theirs[name] == pytest.approx(ours[name], rel=1e-3)
