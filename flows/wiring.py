"""Which stage feeds which. The same lines run under Prefect and answer `plan`: `run` builds, reuses or only plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.judging import Judging, draw
from flows.preferences import by_scorers, pairs_of, prepared
from tasks import (
    class_images,
    dataset,
    faces,
    identity,
    landmarks,
    latents,
    preflight,
    scores,
    text,
    train,
)
from tasks import self_test as self_tests
from tasks.errors import ConfigError
from tasks.experiment import Experiment, require_candidate_trained
from tasks.stage import Call, Handle, Runner

LEARNT = frozenset({"faces", "landmarks", "identity", "latents", "class_images", "text", "feedback", "train"})
"""What an evaluation of a training expects to be there."""
SCORED = LEARNT | {"bundle", "pictures", "images", "scores"}
"""What a report expects to be there."""


@dataclass(frozen=True)
class Lessons:
    """Pictures to learn from and, if there are such, to measure the loss on."""

    known: Mapping[str, Handle]
    """The dataset and, where somebody asks, its faces and their landmarks."""
    held_out: Handle | None

    @property
    def pictures(self) -> Handle:
        return self.known["dataset"]

    @property
    def shown(self) -> dict[str, Handle]:
        """What latents are made of."""
        return {name: handle for name, handle in self.known.items() if name != "landmarks"}


def finetune(experiment: Experiment, run: Runner) -> Handle:
    """Teach the base the dataset, and report whether it is better for it."""
    lessons, pairs = checked(experiment, run)
    return _learn_and_judge(experiment, lessons, pairs, run)


def checked(experiment: Experiment, run: Runner) -> tuple[Lessons, Handle | None]:
    """What a training learns from, and what says which of it is preferred; looked at for what would spoil it."""
    lessons = gather(experiment, run)
    pairs = preferred(experiment, lessons, run)
    run(preflight.check(lessons.known, experiment.config, experiment.model, lessons.held_out, by_scorers(pairs)))
    return lessons, pairs


def cache(experiment: Experiment, run: Runner) -> None:
    """All that `finetune` needs for its training, under the same keys.

    Raises:
        ConfigError: nothing that the configuration trains is judged.
    """
    require_candidate_trained(experiment.config)
    lessons, pairs = checked(experiment, run)
    ready(experiment, lessons, pairs, run)


def class_pictures(experiment: Experiment, run: Runner) -> Handle:
    """The class images alone.

    Raises:
        ConfigError: none are configured.
    """
    prior = experiment.config.prior
    if prior is None:
        raise ConfigError("class-images: no section `prior: {prompt: a photo of a person, count: 200}` to draw by")
    return run(class_images.generate(prior, experiment.model))


def evaluate(experiment: Experiment, run: Runner) -> Handle:
    """Judge what the configuration has trained, or whatever models it names."""
    lessons = gather(experiment, run)
    if experiment.lesson is None:
        return Judging(experiment, lessons.pictures, None, run).report()
    return _learn_and_judge(experiment, lessons, preferred(experiment, lessons, run), run)


def _learn_and_judge(experiment: Experiment, lessons: Lessons, pairs: Handle | None, run: Runner) -> Handle:
    training = learn(experiment, lessons, pairs, run)
    return Judging(experiment, lessons.pictures, training, run, by_scorers(pairs)).report()


def self_test(experiment: Experiment, run: Runner) -> Handle:
    """The base against itself; of the configuration, the evaluation alone is used."""
    config, drawn = experiment.config, experiment.looks[-1]
    references = prepared(experiment, run)
    base = draw("images/base", experiment.models["base"], experiment, drawn, None, run)
    scored = run(scores.score(config.evaluation, experiment.metric_weights, {"base": base}, references))
    found = {"base": base, "scores": scored}
    return run(self_tests.check(config.evaluation, config.sampling, experiment.model, drawn, found))


def gather(experiment: Experiment, run: Runner) -> Lessons:
    """The pictures, and what is known of them before anything is learned; the dataset alone, where nothing will be."""
    config, lesson = experiment.config, experiment.lesson
    shown = with_faces("faces", prepared(experiment, run), experiment, run)
    held_out, validated = None, config.dataset.validation
    if validated is not None and lesson is not None:
        held_out = run(dataset.prepare(validated, lesson.validation_fingerprint, "validation_dataset"))
    return Lessons(with_landmarks(shown, experiment, run), held_out)


def preferred(experiment: Experiment, lessons: Lessons, run: Runner) -> Handle | None:
    """What says which pictures are preferred, for objectives that learn from that."""
    if experiment.config.training.objective.learns_from == "pictures":
        return None
    return pairs_of("feedback", experiment, lessons.pictures, run)


def learn(experiment: Experiment, lessons: Lessons, pairs: Handle | None, run: Runner) -> Handle:
    """From pictures, and what is preferred among them, to what was trained on them."""
    return run(training(experiment, lessons, pairs, run))


def training(experiment: Experiment, lessons: Lessons, pairs: Handle | None, run: Runner) -> Call:
    """The training itself, when all that it reads is made."""
    config, lesson = experiment.config, experiment.lesson
    assert lesson is not None
    cached = ready(experiment, lessons, pairs, run)
    settings = (config.training, config.sampling, config.captions)
    return train.train(*settings, experiment.model, cached, lesson.continuing, lesson.face_model, lesson.scorers)


def ready(experiment: Experiment, lessons: Lessons, pairs: Handle | None, run: Runner) -> dict[str, Handle]:
    """What a training reads instead of pictures, class images and captions."""
    config, model, lesson = experiment.config, experiment.model, experiment.lesson
    assert lesson is not None
    captioned, cached = {"dataset": lessons.pictures}, {}
    if lesson.face_model is not None:
        cached["identity"] = run(identity.embed(lessons.known, config.transform, lesson.face_model))
    how = (config.transform, model, config.model.vae_precision)
    cached["latents"] = run(latents.encode("latents", lessons.shown, *how))
    if lessons.held_out is not None:
        captioned["validation_dataset"] = lessons.held_out
        shown = with_faces("validation_faces", lessons.held_out, experiment, run)
        cached["validation_latents"] = run(latents.encode("validation_latents", shown, *how))
    if config.prior is not None:
        classes = run(class_images.generate(config.prior, model))
        captioned["class_images"] = classes
        shown = with_faces("class_faces", classes, experiment, run)
        cached["class_latents"] = run(latents.encode("class_latents", shown, *how))
    if not config.training.live_text:
        cached["text"] = run(text.encode(captioned, model, config.captions, config.extra_captions))
    if pairs is not None:
        cached["pairs"] = pairs
        if lessons.held_out is not None:
            cached["validation_pairs"] = pairs_of("validation_feedback", experiment, lessons.held_out, run)
    scorers = lesson.scorers
    if scorers is not None and scorers.wants_instances:
        cached["references"] = lessons.pictures
    return cached


def with_faces(label: str, pictures: Handle, experiment: Experiment, run: Runner) -> dict[str, Handle]:
    """Pictures, and where their faces are if a detector is asked."""
    detector = experiment.lesson.face_detector if experiment.lesson is not None else None
    found = {} if detector is None else {"faces": run(faces.find(label, pictures, detector))}
    return {"dataset": pictures, **found}


def with_landmarks(pictures: Mapping[str, Handle], experiment: Experiment, run: Runner) -> dict[str, Handle]:
    """The instance pictures, and their faces' landmarks if an identity loss asks for them."""
    face_model = experiment.lesson.face_model if experiment.lesson is not None else None
    found = {} if face_model is None else {"landmarks": run(landmarks.find(pictures["dataset"], face_model.detector))}
    return {**pictures, **found}
