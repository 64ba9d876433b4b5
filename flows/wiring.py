"""Which stage feeds which. The same lines run under Prefect and answer `plan`: `run` builds, reuses or only plans."""

from __future__ import annotations

from collections.abc import Mapping

from tasks import (
    class_images,
    comparison,
    dataset,
    faces,
    identity,
    images,
    landmarks,
    latents,
    preflight,
    report,
    scores,
    text,
    train,
)
from tasks.experiment import Experiment
from tasks.stage import Handle, Runner

TRAINED = frozenset({"train"})
"""What an evaluation expects to be there."""
SCORED = TRAINED | {"class_images", "images", "scores"}
"""What a report expects to be there."""


def finetune(experiment: Experiment, run: Runner) -> Handle:
    """Teach the base the dataset, and report whether it is better for it."""
    config, model = experiment.config, experiment.model
    pictures = run(dataset.prepare(config.dataset, experiment.fingerprint))
    shown = with_faces("faces", pictures, experiment, run)
    held_out = None
    if config.dataset.validation is not None:
        validated = config.dataset.validation
        held_out = run(dataset.prepare(validated, experiment.validation_fingerprint, "validation_dataset"))
    known = with_landmarks(shown, experiment, run)
    run(preflight.check(known, config, model, held_out))
    captioned, cached = {"dataset": pictures}, {}
    if experiment.face_model is not None:
        cached["identity"] = run(identity.embed(known, config.transform, experiment.face_model))
    how = (config.transform, model, config.model.vae_precision)
    cached["latents"] = run(latents.encode("latents", shown, *how))
    if held_out is not None:
        captioned["validation_dataset"] = held_out
        shown = with_faces("validation_faces", held_out, experiment, run)
        cached["validation_latents"] = run(latents.encode("validation_latents", shown, *how))
    if config.prior is not None:
        classes = run(class_images.generate(config.prior, model))
        captioned["class_images"] = classes
        shown = with_faces("class_faces", classes, experiment, run)
        cached["class_latents"] = run(latents.encode("class_latents", shown, *how))
    if not config.training.live_text:
        cached["text"] = run(text.encode(captioned, model, config.captions, config.extra_captions))
    scorers = experiment.scorers
    if scorers is not None and scorers.wants_instances:
        cached["references"] = pictures
    settings = (config.training, config.sampling, config.captions)
    training = run(train.train(*settings, model, cached, experiment.continuing, experiment.face_model, scorers))
    return judge(experiment, pictures, training, run)


def with_faces(label: str, pictures: Handle, experiment: Experiment, run: Runner) -> dict[str, Handle]:
    """Pictures, and where their faces are if a detector is asked."""
    detector = experiment.face_detector
    found = {} if detector is None else {"faces": run(faces.find(label, pictures, detector))}
    return {"dataset": pictures, **found}


def with_landmarks(pictures: Mapping[str, Handle], experiment: Experiment, run: Runner) -> dict[str, Handle]:
    """The instance pictures, and their faces' landmarks if an identity loss asks for them."""
    face_model = experiment.face_model
    found = {} if face_model is None else {"landmarks": run(landmarks.find(pictures["dataset"], face_model.detector))}
    return {**pictures, **found}


def evaluate(experiment: Experiment, run: Runner) -> Handle:
    """Judge a LoRA from elsewhere, if the experiment names one; else what its configuration trains."""
    if experiment.adapter is None:
        return finetune(experiment, run)
    pictures = run(dataset.prepare(experiment.config.dataset, experiment.fingerprint))
    return judge(experiment, pictures, experiment.adapter, run)


def judge(experiment: Experiment, references: Handle, adapter: Handle | images.AdapterFile, run: Runner) -> Handle:
    """From base and adapter to a report. `references` is the dataset: what the candidate should have learned."""
    config, model, drawn = experiment.config, experiment.model, experiment.drawn
    base = run(images.generate("images/base", model, None, drawn, config.sampling))
    candidate = run(images.generate("images/candidate", model, adapter, drawn, config.sampling))
    scored = run(scores.score(config.evaluation, experiment.metric_weights, base, candidate, references))
    found = run(comparison.compare(config.evaluation, scored))
    training = None if isinstance(adapter, images.AdapterFile) else adapter
    shown = report.Shown(found, base, candidate, references, training)
    return run(report.build(experiment, shown))
