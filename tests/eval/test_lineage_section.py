"""The lineage in a report: a drawing that can be read, and a table in which nothing is left out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.layered import HEIGHT, WIDTH, layered
from eval.lineage_section import LineageSection, lineage_section

Graph = dict[str, list[str]]
NUMBER = re.compile(r"-?[\d.]+")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Inputs before what is made of them."""
    found: Graph = {}
    for number in range(draw(st.integers(1, 25))):
        found[str(number)] = draw(
            st.lists(st.sampled_from(sorted(found)), max_size=4, unique=True) if found else st.just([])
        )
    return found


def many(candidates: int) -> Graph:
    """Candidates that share data, base and scorers, and one comparison."""
    graph: Graph = {"files": [], "model": [], "weights": [], "dataset": ["files"], "latents": ["dataset", "model"]}
    graph["base"] = ["model"]
    for number in range(candidates):
        graph[f"train{number}"] = ["latents", "model"]
        graph[f"images{number}"] = [f"train{number}", "model"]
        graph[f"scores{number}"] = [f"images{number}", "base", "weights", "dataset"]
    return graph | {"comparison": [f"scores{number}" for number in range(candidates)], "report": ["comparison"]}


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_boxes_stand_apart_right_of_their_inputs_and_inside_the_picture(graph: Graph) -> None:
    drawing = layered(graph)
    assert set(drawing.corners) == set(graph)
    for (x, y), (other_x, other_y) in combinations(drawing.corners.values(), 2):
        assert abs(x - other_x) >= WIDTH or abs(y - other_y) >= HEIGHT
    for node, below in graph.items():
        assert all(drawing.corners[source][0] + WIDTH < drawing.corners[node][0] for source in below)
    for x, y in drawing.corners.values():
        assert 0 <= x <= drawing.width - WIDTH and 0 <= y <= drawing.height - HEIGHT


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_a_line_begins_and_ends_at_its_boxes_and_runs_through_none(graph: Graph) -> None:
    drawing = layered(graph)
    edges = [(source, node) for node, below in graph.items() for source in below]
    for (source, node), line in zip(edges, drawing.lines, strict=True):
        numbers = [float(number) for number in NUMBER.findall(line)]
        (from_x, from_y), (to_x, to_y) = drawing.corners[source], drawing.corners[node]
        assert numbers[:2] == pytest.approx([from_x + WIDTH, from_y + HEIGHT / 2], abs=0.11)
        assert numbers[-2:] == pytest.approx([to_x, to_y + HEIGHT / 2], abs=0.11)
        for x, y in levels(line):
            under = [corner for corner in drawing.corners.values() if corner[0] == pytest.approx(x)]
            assert not [corner for corner in under if corner[1] < y < corner[1] + HEIGHT]


def levels(line: str) -> list[tuple[float, float]]:
    """Left end and height of where a line passes through a column."""
    return [(float(x), float(y)) for x, y in re.findall(r" (-?[\d.]+) (-?[\d.]+)h", line)]


def test_the_same_graph_gives_the_same_drawing_however_often() -> None:
    assert layered(many(20)) == layered(many(20))


def test_sixty_artifacts_take_no_more_columns_than_steps() -> None:
    drawing = layered(many(19))
    assert len({x for x, _ in drawing.corners.values()}) == 8
    assert drawing.width < 1300 and drawing.height < 1300


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stated(label: str, inputs: Sequence[str] = (), sources: Sequence[str] = (), **params: Any) -> dict[str, Any]:
    return {
        "artifact": named(label),
        "content": digest(f"content of {label}"),
        "label": label,
        "code": "3",
        "params": params,
        "inputs": {name: {"artifact": named(name), "content": digest(f"content of {name}")} for name in inputs},
        "sources": [{"what": what, "sha256": digest(what)} for what in sources],
        "libraries": 0,
    }


def named(label: str) -> str:
    return f"kind/{digest(label)[:32]}"


def section(*artifacts: Mapping[str, Any], **more: Any) -> LineageSection:
    found = lineage_section({"artifacts": artifacts, "items": [], "libraries": [{"torch": "2"}], **more})
    assert found is not None
    return found


def test_what_is_gone_is_drawn_and_named() -> None:
    found = section(stated("latents", ["dataset"]))
    assert [box.kind for box in found.boxes] == ["gone", "artifact", "report"]
    assert "not in the store any more" in found.boxes[0].whole
    assert [one.label for one in found.rows[0].inputs] == [""]


def test_weights_that_serve_the_same_artifact_share_a_box_and_keep_their_digests() -> None:
    weights = [f"scorer weights (metric{number}: model)" for number in range(9)]
    found = section(stated("images", sources=["base model"]), stated("scores", ["images"], [*weights, "base model"]))
    boxes = {box.name: box for box in found.boxes if box.kind == "source"}
    assert set(boxes) == {"scorer weights", "base model"}
    assert boxes["scorer weights"].below == "9 digests"
    assert all(digest(weight) in boxes["scorer weights"].whole for weight in weights)
    assert [source.what for source in found.rows[1].stated.sources] == [*weights, "base model"]


def test_settings_are_shown_long_lists_by_count_and_digest() -> None:
    prompts = {"items": [[0, 40], [50, 2]], "sha256": digest("prompts")}
    found = section(stated("images", seed=7, sampling={"steps": 20}, prompts=prompts, files=[], nothing={}))
    assert found.rows[0].settings == [
        ("seed", "7"),
        ("sampling.steps", "20"),
        ("prompts", f"42 entries, sha256 {digest('prompts')}"),
    ]


def test_artifacts_of_other_versions_are_told_apart() -> None:
    newer = stated("b") | {"libraries": 1}
    found = section(stated("a"), newer, libraries=[{"torch": "2"}, {"torch": "3"}])
    assert found.libraries == [("set 1", "torch 2"), ("set 2", "torch 3")]
    assert [row.libraries for row in found.rows] == ["set 1", "set 2"]
    assert section(stated("a")).rows[0].libraries == ""


def test_without_provenance_there_is_no_section_and_with_another_there_is_an_error() -> None:
    assert lineage_section({}) is None
    with pytest.raises(ValueError, match="artifacts"):
        lineage_section({"stages": {}})
