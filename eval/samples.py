"""What metrics are asked about: image sets, taken apart into samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from eval.errors import EvalError
from eval.images import GeneratedImage, differ, read_image_set
from eval.questions import Ask
from eval.scorers.base import Judge, Metric, Sample

PAIR = "pair"
"""Stands where a model's name stands, for what is of both."""
NO_STORYBOARDS = "the prompt set has no storyboards"
"""Why a metric of storyboards is not run; nothing is wrong then."""


def read_set(model_id: str, folder: Path) -> tuple[GeneratedImage, ...]:
    images = read_image_set(folder)
    if not images:
        raise EvalError(f"the {model_id} image set is empty")
    return images


def samples(metric: Metric, images: Mapping[str, Sequence[GeneratedImage]]) -> Iterator[tuple[str, Sample]]:
    """With the model that each is of."""
    if metric.scored in ("pair", "versus"):
        pairs = _pairs(images["base"], images["candidate"]) if len(images) == 2 else ()
        for base, candidate in pairs:
            if metric.scored == "pair":
                yield PAIR, Sample((base, candidate))
            else:
                yield "base", Sample((base, candidate))
                yield "candidate", Sample((candidate, base))
        return
    for model_id, mine in images.items():
        if metric.scored == "set":
            yield model_id, Sample(tuple(mine))
        elif metric.scored == "prompt":
            yield from ((model_id, Sample(tuple(group))) for group in _by_prompt(mine).values())
        elif metric.scored == "board":
            yield from ((model_id, Sample(frames)) for frames in _boards(mine))
        else:
            yield from ((model_id, Sample((image,))) for image in mine)


def _by_prompt(images: Sequence[GeneratedImage]) -> dict[str, list[GeneratedImage]]:
    groups = defaultdict(list)
    for image in images:
        groups[image.prompt_id].append(image)
    return groups


def _boards(images: Sequence[GeneratedImage]) -> Iterator[tuple[GeneratedImage, ...]]:
    groups = defaultdict(list)
    for image in images:
        if image.storyboard:
            groups[image.storyboard, image.replicate].append(image)
    for group in groups.values():
        yield tuple(sorted(group, key=lambda image: image.frame))


def _pairs(
    base: Sequence[GeneratedImage], candidate: Sequence[GeneratedImage]
) -> Iterator[tuple[GeneratedImage, GeneratedImage]]:
    others = {image.key: image for image in candidate}
    for image in base:
        other = others.get(image.key)
        if other is None:
            continue  # the comparison lists pictures without a counterpart
        if differ(image.seed, other.seed) or image.prompt != other.prompt:
            raise EvalError(
                f"prompt {image.prompt_id!r}, replicate {image.replicate}: base and candidate differ in prompt or seed "
                f"({image.seed} against {other.seed}); generate both with one prompt file and one evaluation.seed"
            )
        yield image, other


def units(judges: Mapping[str, Judge], samples: Mapping[str, Sequence[tuple[str, Sample]]]) -> Iterator[Sequence[Ask]]:
    """Instance pictures one by one; then, prompt by prompt, all that is asked about any picture of it."""
    by_picture: dict[str, list[Ask]] = defaultdict(list)
    for judge in judges.values():
        for ask in judge.references:
            by_picture[ask.pictures[0].identity].append(ask)
    yield from by_picture.values()
    by_prompt: dict[str, list[Ask]] = defaultdict(list)
    for name, mine in samples.items():
        for _, sample in mine:
            for ask in judges[name].asks(sample):
                by_prompt[_prompt_of(ask)].append(ask)
    yield from by_prompt.values()


def _prompt_of(ask: Ask) -> str:
    first = ask.pictures[0]
    assert isinstance(first, GeneratedImage)
    return first.prompt_id
