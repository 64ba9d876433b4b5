"""The report of several candidates: each against the same base, side by side on one page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval import gate_words, matrix_plots, matrix_words, sweep_plots, wording
from eval.compare import choose
from eval.config import GalleryConfig
from eval.errors import EvalError
from eval.images import read_image_set
from eval.lineage_section import lineage_section
from eval.matrix_rows import RowOfPictures, rows_of_pictures
from eval.matrix_words import Choosing, Contender, Found, judged_of
from eval.pages import rendered, write_report
from eval.result import Comparison, JudgedMetric, MetricFacts, read_comparison
from eval.sides import BASE
from eval.summary import escaped
from eval.sweep import Sweep, SweptGroup, has_seeds, how_inferred, sentences, swept
from eval.verdicts import verdict_of_several

SCHEMA_VERSION = 1

Points = list[tuple[str, JudgedMetric, JudgedMetric]]


def build_matrix(
    *,
    title: str,
    contenders: Sequence[Contender],
    comparisons: Path,
    sets: Mapping[str, Path],
    baseline: str,
    axes: tuple[str, str] | None,
    choosing: Choosing | None,
    provenance: Mapping[str, Any],
    command: str,
    config_yaml: str,
    gallery: GalleryConfig,
    out: Path,
    sweep: Sweep | None = None,
) -> dict[str, object]:
    """Write report.html, report.json and summary.md into `out`. The same inputs give the same bytes.

    Args:
        title: what the page is called.
        contenders: the candidates, in the order in which they are shown.
        comparisons: what `compare_several` wrote.
        sets: image sets, by slug, and the `base`'s.
        baseline: which model that is.
        axes: two metrics that are drawn against each other, or None.
        choosing: how one of them is chosen to be judged further; None: each has its own report, in the folder of its
            slug beside this one.
        provenance, command, config_yaml: as of `build_report`.
        gallery: how many pictures are shown, and how large.
        out: folder for the results, made if absent.
        sweep: which settings the candidates were trained with, if they are variants of one training.

    Returns:
        A summary: headline, verdict in one word, and the rows of pictures shown.

    Raises:
        EvalError: an input folder is not what it should be.
    """
    found = {one.slug: read_comparison(comparisons / one.slug) for one in contenders}
    images = {role: read_image_set(folder) for role, folder in sets.items()}
    if not images["base"]:
        raise EvalError(f"{sets['base'].name}: the base's image set is empty")
    rows = rows_of_pictures(contenders, found, comparisons, images, baseline, gallery)
    points = _points(contenders, found, axes)
    groups = [] if sweep is None else swept(sweep, found, comparisons, images["base"], _facts(found.values()))
    document = {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        **_findings(contenders, found, baseline, choosing),
        "trade_off": {"metrics": axes, "unbeaten": matrix_plots.unbeaten(points)} if points else None,
        "gallery": [list(row.base.key) for row in rows],
        "provenance": dict(provenance),
        "command": command,
        "config": config_yaml,
    }
    if sweep is not None:
        document["sweep"] = {**asdict(sweep), "groups": [_group_as_json(one) for one in groups]}
        document["summary"] += sentences(groups, sweep)
    page = _page(document, contenders, found, points, rows, _section(sweep, groups, found))
    write_report(page, document, _markdown(document, contenders, found), out)
    return {"headline": document["headline"], "verdict": document["verdict"], "rows_shown": len(rows)}


def _findings(
    contenders: Sequence[Contender], found: Found, baseline: str, choosing: Choosing | None
) -> dict[str, Any]:
    choice = None if choosing is None else choose(choosing.by, found)
    the_baseline = "the base" if baseline == BASE else baseline
    return {
        "headline": matrix_words.headline(contenders, found, the_baseline, choice),
        "summary": matrix_words.summary(contenders, found, choosing, choice),
        "verdict": verdict_of_several([one.verdict for one in found.values()]),
        "baseline": baseline,
        "candidates": [asdict(one) for one in contenders],
        "chosen": choice,
        "comparisons": {slug: one.model_dump(mode="json") for slug, one in found.items()},
    }


def _page(
    document: Mapping[str, Any],
    contenders: Sequence[Contender],
    found: Found,
    points: Points,
    rows: Sequence[RowOfPictures],
    section: Mapping[str, Any],
) -> str:
    unbeaten = document["trade_off"]["unbeaten"] if points else ()
    return rendered(
        "matrix.html.j2",
        **{**document, **section},
        contenders=contenders,
        found=found,
        facts=_facts(found.values()),
        base_means=_base_means(found),
        primaries={metric.facts.name for one in found.values() for metric in one.primaries},
        cell_of=judged_of,
        moved=_moved(found),
        figures={
            "trajectory": Markup(matrix_plots.trajectory(_over_steps(contenders, found))),
            "trade_off": Markup(matrix_plots.trade_off(points, unbeaten) if points else ""),
            "over_seeds": Markup(sweep_plots.over_seeds(section["swept"], _facts(found.values()))),
        },
        rows=rows,
        lineage=lineage_section(document["provenance"]),
        pairs=max(one.health.pictures["base"] for one in found.values()),
        categories_shown=sorted({row.base.category for row in rows if row.base.category}),
        words=wording,
        gate_words=gate_words,
    )


def _section(sweep: Sweep | None, groups: Sequence[SweptGroup], found: Found) -> dict[str, Any]:
    """What the page's part on a sweep needs."""
    return {
        "sweep": sweep,
        "swept": groups,
        "has_seeds": has_seeds(groups),
        "has_intervals": any(metric.found.interval for one in groups for metric in one.metrics),
        "how_inferred": how_inferred(groups, found) if groups else "",
    }


def _group_as_json(one: SweptGroup) -> dict[str, Any]:
    return {**asdict(one.group), "metrics": [metric.as_json() for metric in one.metrics]}


def _facts(found: Iterable[Comparison]) -> list[MetricFacts]:
    """Of the metrics that judge any candidate, primary ones first, each once."""
    metrics = [metric for one in found for metric in one.judged]
    ordered = [metric for metric in metrics if metric.primary] + [metric for metric in metrics if not metric.primary]
    return list({metric.facts.name: metric.facts for metric in ordered}.values())


def _base_means(found: Found) -> dict[str, str]:
    """By metric. It is of the prompts that have a score on both sides, so that candidates may differ in it."""
    means: dict[str, dict[str, None]] = {}
    for metric in (metric for one in found.values() for metric in one.judged):
        shown = wording.plain(metric.base_mean, metric.facts.decimals)
        means.setdefault(metric.facts.name, {})[shown] = None
    return {name: " or ".join(shown) if len(shown) < 3 else "differs" for name, shown in means.items()}


def _points(contenders: Sequence[Contender], found: Found, axes: tuple[str, str] | None) -> Points:
    """Of the candidates that both metrics judge; none of them where there is but one."""
    if axes is None:
        return []
    points = []
    for one in contenders:
        x, y = (judged_of(found[one.slug], name) for name in axes)
        if x is not None and y is not None:
            points.append((one.name, x, y))
    return points if len(points) > 1 else []


def _over_steps(contenders: Sequence[Contender], found: Found) -> list[list[tuple[int, JudgedMetric]]]:
    """By metric, of the candidates that are states of the training."""
    return [
        [
            (one.step, metric)
            for one in contenders
            if one.step is not None and (metric := judged_of(found[one.slug], facts.name)) is not None
        ]
        for facts in _facts(found.values())
    ]


def _moved(found: Found) -> list[tuple[str, dict[str, str]]]:
    """What has no better direction: title -> by slug, its number."""
    table: dict[str, dict[str, str]] = {}
    for slug, one in found.items():
        numbers = [(f"{m.facts.title} (drift)", wording.described_sentence(m)) for m in one.described]
        numbers += [(f"{m.facts.title} (shift)", wording.signed(m.delta, m.facts.decimals)) for m in one.shifted]
        numbers += [
            (f"{m.facts.title} (of the set)", wording.plain(m.candidate, m.facts.decimals))
            for m in one.sets
            if m.candidate is not None
        ]
        for title, text in numbers:
            table.setdefault(title, {})[slug] = text
    return list(table.items())


def _markdown(document: Mapping[str, Any], contenders: Sequence[Contender], found: Found) -> str:
    facts = _facts(found.values())
    lines = [f"# {escaped(document['title'])}", "", f"**{escaped(document['headline'])}**", ""]
    lines += [f"- {escaped(sentence)}" for sentence in document["summary"]]
    lines += ["", "| candidate | " + " | ".join(escaped(one.title) for one in facts) + " | verdict |"]
    lines += ["|---|" + "---:|" * len(facts) + "---|"]
    for one in contenders:
        cells = [_cell(judged_of(found[one.slug], fact.name)) for fact in facts]
        lines += [f"| {escaped(one.name)} | {' | '.join(cells)} | {found[one.slug].verdict or ''} |"]
    against = escaped(str(document["baseline"]))
    lines += ["", f"Mean difference from {against} with its interval; bold: better or worse, after correction."]
    return "\n".join(lines) + "\n"


def _cell(metric: JudgedMetric | None) -> str:
    if metric is None:
        return ""
    decimals = metric.facts.decimals
    text = f"{wording.signed(metric.delta, decimals)} {wording.interval(metric.delta_interval, decimals)}"
    return f"**{text}**" if metric.outcome in ("better", "worse") else text
