"""Which stage feeds which. The same lines run under Prefect and answer `plan`: `run` builds, reuses or only plans."""

from __future__ import annotations

from tasks import class_images, comparison, dataset, images, latents, preflight, report, scores, text, train
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
    held_out = None
    if config.dataset.validation is not None:
        validated = config.dataset.validation
        held_out = run(dataset.prepare(validated, experiment.validation_fingerprint, "validation_dataset"))
    run(preflight.check(pictures, config.transform, model, config.training.validation_loss, held_out))
    captioned = {"dataset": pictures}
    cached = {"latents": run(latents.encode("latents", pictures, config.transform, model))}
    if held_out is not None:
        captioned["validation_dataset"] = held_out
        cached["validation_latents"] = run(latents.encode("validation_latents", held_out, config.transform, model))
    if config.prior is not None:
        classes = run(class_images.generate(config.prior, model))
        captioned["class_images"] = classes
        cached["class_latents"] = run(latents.encode("class_latents", classes, config.transform, model))
    cached["text"] = run(text.encode(captioned, model))
    training = run(train.train(config.training, config.sampling, model, cached, experiment.continuing))
    return judge(experiment, pictures, training, run)


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
    scored: dict[str, Handle] = {}
    for metric in config.evaluation.metrics:
        for compared in scores.image_sets(metric, base, candidate):
            call = scores.score(metric, experiment.metric_weights[metric.id], compared, references)
            scored[call.label] = run(call)
    found = run(comparison.compare(config.evaluation, scored))
    training = None if isinstance(adapter, images.AdapterFile) else adapter
    shown = report.Shown(found, base, candidate, references, training)
    return run(report.build(experiment, shown))
