"""Stage `feedback`: scorers label the pairs of a dataset, or find pairs among drawn pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.feedback_config import FeedbackConfig
from sdxl_core.config import DatasetConfig
from sdxl_core.pair_rules import PAIR_SOURCES
from tasks.config import PipelineConfig
from tasks.digests import FileDigests
from tasks.errors import ConfigError
from tasks.manifest import Json, Ref
from tasks.runs import record_run
from tasks.scores import named_weights, placed_weights, weights_of
from tasks.stage import Call, Handle, Job, Stage
from tasks.store import ArtifactStore
from tasks.weights import MetricWeights, weights_of_metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from eval.feedback import Captioned, Preferences, Scored
    from eval.feedback_facts import Feedback
    from sdxl_core.data.pairs import Pair
    from sdxl_core.data.records import Record

_LOG = logging.getLogger("sdxl_flows")
TIE = 0.5
Shown = tuple[str, str]
"""A picture under a caption: its digest, and the text."""


def _build(job: Job) -> dict[str, Json]:
    from eval.feedback import score_pictures, write_scored
    from eval.feedback_facts import feedback_facts, write_feedback
    from sdxl_core.data.pairs import write_pairs

    config, weights = FeedbackConfig.model_validate(job.local["feedback"]), weights_of(job)
    asked = _asked(job.inputs["dataset"], drawn=config.pairs_per_prompt is not None)
    pictures = _captioned(job.inputs["dataset"], asked.records)
    scored = score_pictures(
        config,
        weights=weights,
        pictures=pictures,
        cells=job.store.cells("scores"),
        device=job.device,
        progress=job.progress,
    )
    pairs, found = _preferred(config, asked, scored)
    facts = feedback_facts(config, weights, scored, found, asked.caption_P[found.first_N], asked.before_N)
    _require_choices(facts)
    write_pairs(job.out, _labelled(pairs, found, new=asked.pairs is None))
    write_scored(config, pictures, scored, job.out)
    write_feedback(facts, job.out)
    rows, lines = told(job.out)
    _LOG.info("%s", "\n".join([*(f"feedback: {'  '.join(row)}" for row in rows), *lines]))
    return {"pairs": facts.pairs, "chosen": facts.chosen, "ties": facts.ties, "pictures": facts.pictures}


STAGE = Stage(kind="feedback", version="1", build=_build)


def prefer(
    label: str,
    feedback: FeedbackConfig,
    dataset: DatasetConfig,
    weights: Mapping[str, MetricWeights],
    pictures: Handle,
) -> Call:
    """`pictures` are the prepared dataset; where it is drawn, pairs are found in it."""
    document = feedback.model_dump(mode="json")
    if dataset.drawn is not None:
        document["pairs_per_prompt"] = feedback.pairs_per_prompt or 1
    params = {
        "judges": [judge.identity() for judge in feedback.judges],
        **{name: document[name] for name in ("rule", "min_margin", "keep", "keep_ties", "pairs_per_prompt")},
        **named_weights(weights),
    }
    return Call(STAGE, label, params, {"dataset": pictures}, {"feedback": document, **placed_weights(weights)})


@dataclass(frozen=True)
class _Asked:
    """What the judges are shown."""

    records: list[Record]
    """Each picture under each of its captions once."""
    pairs: list[Pair] | None
    """None where they are to be found."""

    @property
    def caption_P(self) -> NDArray[np.int64]:
        """Equal where captions are."""
        import numpy as np

        known: dict[str, int] = {}
        return np.array([known.setdefault(record.text, len(known)) for record in self.records], dtype=np.int64)

    @property
    def before_N(self) -> NDArray[np.int64] | None:
        """The choices that there were: 1 the first, -1 the second, 0 neither."""
        import numpy as np

        pairs = self.pairs
        return None if pairs is None else np.array([round(2 * _before(pair) - 1) for pair in pairs], dtype=np.int64)


def _asked(dataset: Path, *, drawn: bool) -> _Asked:
    """
    Raises:
        UserError: the dataset has no pairs, or not the pictures of one.
    """
    from sdxl_core.data.pairs import iter_pairs
    from sdxl_core.data.records import iter_records

    known = {(record.sha256, record.text): record for record in iter_records(dataset)}
    if drawn:
        return _Asked(list(known.values()), None)
    pairs = list(iter_pairs(dataset))
    shown: dict[Shown, Record] = {}
    for pair in pairs:
        for end in _ends(pair):
            if end not in known:
                expected, got = (
                    "a record for every picture of a pair",
                    f"{pair.source} with {end[0][:12]}, which has none",
                )
                raise ConfigError.about("feedback", expected=expected, got=got)
            shown[end] = known[end]
    if not pairs:
        raise ConfigError.about("feedback", expected="a dataset with pairs", got="one with none")
    return _Asked(list(shown.values()), pairs)


def _ends(pair: Pair) -> tuple[Shown, Shown]:
    return (pair.first, pair.text), (pair.second, pair.text)


def _captioned(dataset: Path, records: Sequence[Record]) -> list[Captioned]:
    from eval.feedback import captioned

    return [captioned(dataset / record.image, record.sha256, record.text) for record in records]


def _preferred(config: FeedbackConfig, asked: _Asked, scored: Scored) -> tuple[list[Pair], Preferences]:
    """The pairs, given or found, and what the judges say of them."""
    import numpy as np

    from eval import feedback
    from sdxl_core.data.pairs import Pair

    if asked.pairs is not None:
        places = {(record.sha256, record.text): place for place, record in enumerate(asked.records)}
        ends_N2 = np.array([[places[end] for end in _ends(pair)] for pair in asked.pairs], dtype=np.int64)
        return asked.pairs, feedback.prefer(config, scored, ends_N2[:, 0], ends_N2[:, 1], asked.before_N)
    found = feedback.best_against_worst(config, scored, asked.caption_P)
    pairs = []
    for first, second in zip(found.first_N.tolist(), found.second_N.tolist(), strict=True):
        one, other = asked.records[first], asked.records[second]
        pairs.append(Pair(one.sha256, other.sha256, TIE, one.text, f"{one.source} and {other.source}"))
    return pairs, found


def _labelled(pairs: Sequence[Pair], found: Preferences, *, new: bool) -> Iterator[Pair]:
    """The pairs with their labels, in their order; of `new` ones, those that are no ties."""
    for pair, choice, margin in zip(pairs, found.choice_N.tolist(), found.margin_N.tolist(), strict=True):
        if choice or not new:
            yield replace(
                pair,
                label=(1 + choice) / 2,
                human_label=None if new else _before(pair),
                margin=margin if math.isfinite(margin) else None,
            )


def _before(pair: Pair) -> float:
    return pair.label if pair.human_label is None else pair.human_label


def _require_choices(facts: Feedback) -> None:
    """Raises ConfigError where there is nothing to learn."""
    if facts.not_scored:
        _LOG.warning("feedback: %d pairs have a picture without a score, and are ties", facts.not_scored)
    if not facts.chosen:
        fix = "Lower feedback.min_margin, or take another rule or other judges"
        got = f"{facts.pairs} pairs, and in none of them"
        raise ConfigError.about("feedback", expected="pairs of which one picture is preferred", got=got, fix=fix)


def locate_judges(config: PipelineConfig, digests: FileDigests) -> dict[str, MetricWeights]:
    """By judge; empty without feedback.

    Raises:
        ConfigError: a judge's weights or packages are not there.
    """
    judges = config.feedback.judges if config.feedback is not None else ()
    return {judge.id: weights_of_metric(f"feedback.judges.{i}", judge, digests) for i, judge in enumerate(judges)}


def check_feedback(config: PipelineConfig) -> None:
    """Refuse feedback that has nothing to label, and drawn pictures that nobody labels.

    Raises:
        ConfigError: naming both sections.
    """
    feedback, dataset = config.feedback, config.dataset
    if feedback is None:
        if dataset.drawn is not None:
            raise ConfigError(
                "dataset.source = drawn: nobody says which pictures are better: add a section `feedback: {judges: "
                "[{metric: pick_score, model: yuvalkirstain/PickScore_v1}]}`"
            )
        return
    if dataset.drawn is None:
        if dataset.source not in PAIR_SOURCES:
            expected = f"a dataset.source with pairs ({', '.join(PAIR_SOURCES)}) or drawn"
            fix = "Remove the section (--set feedback=null)"
            raise ConfigError.about("feedback", expected=expected, got=dataset.source, fix=fix)
        if feedback.pairs_per_prompt is not None:
            raise ConfigError(
                f"feedback.pairs_per_prompt is of dataset.source: drawn, got {dataset.source}; leave it out"
            )
        return
    if feedback.keep_ties:
        raise ConfigError("feedback.keep_ties has no effect on drawn pictures, which nobody labelled; leave it out")
    most = dataset.drawn.pictures_per_prompt // 2
    if (feedback.pairs_per_prompt or 1) > most:
        fix = f"Set dataset.drawn.pictures_per_prompt={2 * (feedback.pairs_per_prompt or 1)}"
        got = feedback.pairs_per_prompt
        raise ConfigError.about("feedback.pairs_per_prompt", expected=f"{most} at most", got=got, fix=fix)


def keep_relabelled(store: ArtifactStore, name: str, refs: Mapping[str, Ref]) -> Path:
    """Note the labels of an experiment as a run of their own; returns where they lie."""
    record_run(store, f"{name}-relabel", "relabel", refs)
    return store.path(refs["feedback"])


def told(place: Path) -> tuple[list[tuple[str, ...]], list[str]]:
    """-> a table of who agrees with whom, by the artifact at `place`, and what to say below it."""
    from eval.feedback_facts import agreement_rows, read_feedback, summary_lines

    facts = read_feedback(place)
    return agreement_rows(facts), summary_lines(facts)
