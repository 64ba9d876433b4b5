"""The report stage: one self-contained page for people, and the same findings for machines."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval import curves, gate_words, overfitting_words, plots, plots_overfitting, wording
from eval.breakdown import CategoryDelta, by_category
from eval.choice import TABS, Card, choose
from eval.config import GalleryConfig
from eval.errors import EvalError
from eval.flat import flat
from eval.gallery import Thumbnail, shown_cards, thumbnail
from eval.images import GeneratedImage, Picture, read_image_set, read_left_out, read_references
from eval.lineage_section import lineage_section
from eval.near_pictures import near_pictures
from eval.overfitting import Overfitting, look_for_overfitting
from eval.pairing import Paired, paired_scores, storyboards_for
from eval.result import Comparison, MetricFacts, read_comparison
from eval.sides import Sides, sides_of
from eval.storyboards import frames_of, strips
from eval.summary import summary, summary_markdown
from eval.table import SCORES, Row, read_scores
from eval.teachers import warnings
from eval.training import Training, read_training, reading

SCHEMA_VERSION = 3
TEMPLATES = Path(__file__).parent / "templates"
IMAGE_SET_FACTS = "set.json"


@dataclass(frozen=True)
class Facts:
    """One line of "what was compared"."""

    name: str
    base: str
    candidate: str


def build_report(
    *,
    title: str,
    comparison: Path,
    base: Path,
    candidate: Path,
    references: Path | None,
    training: Path | None,
    learned_from: Sequence[str] = (),
    provenance: Mapping[str, Any],
    command: str,
    config_yaml: str,
    out: Path,
    gallery: GalleryConfig | None = None,
    names: Mapping[str, str] | None = None,
    chosen: wording.Chosen | None = None,
) -> dict[str, object]:
    """Write report.html, report.json, summary.md and scores.parquet into `out`. The same inputs give the same bytes.

    Args:
        title: what the page is called.
        comparison: comparison artifact.
        base, candidate: the two image sets.
        references: dataset artifact with the instance pictures, or None to show none.
        training: train artifact, or None to show none.
        learned_from: names of the data, such as hub ids, that the candidate was trained on, and of its reward.
        provenance: as `eval.stated.StatedLineage` describes it; empty to show none.
        command: how to make this report again.
        config_yaml: the whole configuration as text.
        out: folder for the results, made if absent.
        gallery: which pictures are shown; default: `GalleryConfig()`.
        names: which models `base` and `candidate` are.
        chosen: how the candidate was chosen among several, if it was.

    Returns:
        A summary: outcome, headline and the number of picture pairs shown.

    Raises:
        EvalError: an input folder is not what it should be.
    """
    sizes = gallery or GalleryConfig()
    found, rows = read_comparison(comparison), read_scores(comparison)
    images = {"base": read_image_set(base), "candidate": read_image_set(candidate)}
    sides = sides_of(names or {}, images)
    paired = {metric.facts.name: _paired(metric.facts, rows, images["base"]) for metric in found.judged}
    cards = choose(images["base"], images["candidate"], found, paired, sizes)
    categories = _categories(found, paired, images["base"])
    compared = {
        "base": {"name": sides.baseline} | _set_facts(base, images["base"]),
        "candidate": {"name": sides.candidate} | _set_facts(candidate, images["candidate"]),
    }
    sentences, history = summary(found, sides), [chosen.sentence(sides.candidate)] if chosen else []
    taught = warnings(found.judged, learned_from)
    overfit = look_for_overfitting(found, rows, paired, learned_from, taught, sides)
    document = {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "headline": wording.headline(found, sides),
        "verdict": found.verdict,
        "summary": [*sentences[:1], *history, *sentences[1:], *overfit.findings, *taught],
        "same_noise": sides.same_noise,
        "comparison": found.model_dump(mode="json"),
        "not_scored": found.health.counts(),
        "overfitting": overfit.document(),
        "categories": [asdict(category) for category in categories],
        "image_sets": compared,
        "gallery": {tab: _tab_keys(cards, tab) for tab in TABS},
        "provenance": dict(provenance),
        "command": command,
        "config": config_yaml,
    }
    page = page_template("report.html.j2").render(
        **document,
        found=found,
        sides=sides,
        words=wording,
        gate_words=gate_words,
        category_rows=categories,
        facts=_side_by_side(compared),
        lineage=lineage_section(provenance),
        pairs=len({image.key for image in images["base"]} & {image.key for image in images["candidate"]}),
        categories_shown=sorted({card.base.category for card in cards if card.base.category}),
        tabs={tab: label for tab, label in TABS.items() if _tab_keys(cards, tab)},
        cards=shown_cards(cards, found, rows, paired, sizes),
        prompt_wise={metric.facts.name for metric in found.measured if metric.facts.scored == "prompt"},
        storyboards=strips(
            images["base"], images["candidate"], sizes.max_side_px, rows, [metric.facts for metric in found.measured]
        ),
        prompts={image.prompt_id: image.prompt for image in images["base"]},
        references=_references(references, sizes),
        left_out=read_left_out(references) if references else [],
        training=(seen := read_training(training, sizes.max_side_px) if training else None),
        training_words=reading(seen) if seen else [],
        figures=_figures(found, paired, seen) | _overfitting_figures(overfit, found, sides),
        overfit=overfit,
        overfit_words=overfitting_words,
        near_pictures=near_pictures(overfit.nearest, images, read_references(references) if references else (), sizes),
        titles=found.titles,
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(page, encoding="utf-8")
    text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    warned = [*history, *overfit.findings, *taught]
    (out / "summary.md").write_text(summary_markdown(title, found, sides, warned), encoding="utf-8")
    shutil.copyfile(comparison / SCORES, out / SCORES)
    return {
        "outcome": found.outcome,
        "verdict": found.verdict,
        "headline": wording.headline(found, sides),
        "pairs_shown": len(cards),
    }


def page_template(name: str) -> Any:
    """One of the templates of pages."""
    # prompts, titles and file names are untrusted text: everything is escaped
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _paired(facts: MetricFacts, rows: Sequence[Row], images: Sequence[GeneratedImage]) -> Paired:
    return paired_scores(rows, facts.name, storyboards_for(facts.scored, frames_of(images)))


def _categories(
    found: Comparison, paired: Mapping[str, Paired], images: Sequence[GeneratedImage]
) -> list[CategoryDelta]:
    if found.leading is None:
        return []
    names = {image.prompt_id: image.category for image in images}
    return by_category(paired[found.leading.facts.name], names, found)


def _set_facts(folder: Path, images: Sequence[GeneratedImage]) -> dict[str, Any]:
    path = folder / IMAGE_SET_FACTS
    if not path.is_file():
        raise EvalError(f"{folder.name}: expected {IMAGE_SET_FACTS} in it; this is not an image set")
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    digest = hashlib.sha256("\n".join(image.identity for image in images).encode()).hexdigest()
    facts: dict[str, Any] = {"count": len(images), "digest": digest}
    if own := sum(bool(image.own_settings) for image in images):
        facts["drawn by settings of their own"] = own
    return {**stored, "pictures": facts}


def _side_by_side(compared: Mapping[str, Mapping[str, Any]]) -> list[Facts]:
    base, candidate = (dict(flat(compared[side])) for side in ("base", "candidate"))
    dash = "\N{EN DASH}"
    return [Facts(name, base.get(name, dash), candidate.get(name, dash)) for name in dict.fromkeys([*base, *candidate])]


def _tab_keys(cards: Sequence[Card], tab: str) -> list[list[str | int]]:
    """Prompt id and replicate of the tab's pairs, in its order."""
    inside = sorted((card for card in cards if tab in card.places), key=lambda card: card.places[tab])
    return [[card.base.prompt_id, card.base.replicate] for card in inside]


def _references(folder: Path | None, sizes: GalleryConfig) -> list[Thumbnail]:
    if folder is None:
        return []
    pictures: Sequence[Picture] = read_references(folder)[: sizes.references]
    return [shown for picture in pictures if (shown := thumbnail(picture, sizes.max_side_px))]


def _figures(found: Comparison, paired: Mapping[str, Paired], training: Training | None) -> dict[str, Any]:
    """Figures are our own markup, so they alone are not escaped; their labels are, inside `plots`."""
    differences = {
        metric.facts.title: plots.difference_histogram(metric, pairs.per_prompt(pairs.delta))
        for metric, pairs in ((metric, paired[metric.facts.name]) for metric in found.judged)
        if metric.prompts > 1
    }
    return {
        "forest": Markup(plots.forest(found.judged, found.gates)),
        "looks": Markup(plots.looks(found)),
        "differences": {title: Markup(figure) for title, figure in differences.items()},
        "training": Markup(curves.training_curves(training)) if training else "",
    }


def _overfitting_figures(overfit: Overfitting, found: Comparison, sides: Sides) -> dict[str, Markup]:
    near = overfit.nearness
    return {
        "nearest": Markup(plots_overfitting.nearest(near, sides.baseline)) if near else Markup(),
        "agreement": Markup(plots_overfitting.heat_map(overfit.correlations, found.titles, found.confidence)),
    }
