"""The report's section on where its numbers come from: a picture of the lineage, and every artifact's recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.flat import flat
from eval.layered import HEIGHT, WIDTH, Drawing, layered
from eval.stated import Stated, StatedLineage, StatedSource, is_long

_LETTERS = 19
"""That fit into a box."""
_REPORT = "this report"


@dataclass(frozen=True)
class Box:
    """One node of the picture."""

    name: str
    below: str
    whole: str
    """What is told on pointing at it."""
    kind: str
    """artifact, source, gone or report."""
    anchor: str
    x: float
    y: float


@dataclass(frozen=True)
class Input:
    name: str
    label: str
    """Of the artifact; empty where it is not in the store any more."""
    anchor: str
    artifact: str
    content: str


@dataclass(frozen=True)
class Row:
    """One artifact of the table."""

    stated: Stated
    anchor: str
    inputs: list[Input]
    settings: list[tuple[str, str]]
    libraries: str
    """Which of several sets of versions; empty where there is one."""


@dataclass(frozen=True)
class LineageSection:
    boxes: list[Box]
    drawing: Drawing
    rows: list[Row]
    libraries: list[tuple[str, str]]
    """Name of the set, and its versions."""
    box_width: int = WIDTH
    box_height: int = HEIGHT


@dataclass(frozen=True)
class _Node:
    name: str
    below: str
    whole: str
    kind: str
    anchor: str = ""


def lineage_section(provenance: Mapping[str, Any]) -> LineageSection | None:
    """Of what `StatedLineage` describes; None where nothing is stated.

    Raises:
        ValueError: it is something else.
    """
    if not provenance:
        return None
    stated = StatedLineage.model_validate(provenance)
    labels = {one.artifact: one.label for one in stated.artifacts}
    nodes, inputs = _graph(stated)
    drawing = layered(inputs)
    boxes = [Box(**vars(nodes[name]), x=x, y=y) for name, (x, y) in drawing.corners.items()]
    several = len(stated.libraries) > 1
    names = [f"set {number}" if several else "" for number in range(1, 1 + len(stated.libraries))]
    rows = [_row(one, labels, names[one.libraries]) for one in stated.artifacts]
    versions = [", ".join(f"{name} {version}" for name, version in sorted(one.items())) for one in stated.libraries]
    return LineageSection(boxes, drawing, rows, list(zip(names, versions, strict=True)))


def _row(stated: Stated, labels: Mapping[str, str], libraries: str) -> Row:
    inputs = [
        Input(name, labels.get(one.artifact, ""), _anchor(one.artifact), one.artifact, one.content)
        for name, one in sorted(stated.inputs.items())
    ]
    shown = {"{}", "[]", *(source.sha256 for source in stated.sources)}
    settings = [(name, value) for name, value in flat(_shortened(stated.params)) if value not in shown]
    return Row(stated, _anchor(stated.artifact), inputs, settings, libraries)


def _shortened(value: Any) -> Any:
    """Long lists by how many entries they have and by their digest."""
    if is_long(value):
        return f"{sum(count for _, count in value['items'])} entries, sha256 {value['sha256']}"
    return {key: _shortened(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def _graph(stated: StatedLineage) -> tuple[dict[str, _Node], dict[str, list[str]]]:
    """-> nodes by name, and what each is made from, which stands before it."""
    known = {one.artifact for one in stated.artifacts}
    nodes: dict[str, _Node] = {}
    feeds: dict[str, list[str]] = {one.artifact: [] for one in stated.artifacts}
    for sources, users in _together(stated.artifacts):
        name = f"source {len(nodes)}"
        nodes[name] = _of_sources(sources)
        for user in users:
            feeds[user].append(name)
    for one in stated.artifacts:
        for below in one.inputs.values():
            feeds[one.artifact].append(below.artifact)
            if below.artifact not in known:
                gone = f"{below.artifact}, not in the store any more"
                nodes[below.artifact] = _Node(below.artifact.partition("/")[0], "gone", gone, "gone")
    for one in stated.artifacts:
        nodes[one.artifact] = _of_artifact(one)
    used = {name for below in feeds.values() for name in below}
    nodes[_REPORT] = _Node(_REPORT, "", _REPORT, "report")
    last = [one.artifact for one in stated.artifacts if one.artifact not in used]
    return nodes, {name: list(dict.fromkeys(feeds.get(name, ()))) for name in nodes} | {_REPORT: last}


def _together(artifacts: Sequence[Stated]) -> list[tuple[list[StatedSource], tuple[str, ...]]]:
    """Sources that the same artifacts are made from, and these."""
    users: dict[str, list[str]] = {}
    first: dict[str, StatedSource] = {}
    for one in artifacts:
        for source in one.sources:
            first.setdefault(source.sha256, source)
            if one.artifact not in users.setdefault(source.sha256, []):
                users[source.sha256].append(one.artifact)
    groups: dict[tuple[str, ...], list[StatedSource]] = {}
    for sha256, found in users.items():
        groups.setdefault(tuple(found), []).append(first[sha256])
    return [(sources, used_by) for used_by, sources in groups.items()]


def _of_sources(sources: Sequence[StatedSource]) -> _Node:
    whole = "\n".join(f"{source.what} {source.sha256}" for source in sources)
    if len(sources) == 1:
        return _Node(_cut(sources[0].what), sources[0].sha256[:8], whole, "source")
    kinds = dict.fromkeys(source.what.partition(" (")[0] for source in sources)
    return _Node(_cut(", ".join(kinds)), f"{len(sources)} digests", whole, "source")


def _of_artifact(stated: Stated) -> _Node:
    kind, _, key = stated.artifact.partition("/")
    below = key[:8] if stated.label.startswith(kind) else f"{kind} {key[:8]}"
    whole = f"{stated.label}: {stated.artifact}\ncontent {stated.content}\ncode version {stated.code}"
    return _Node(_cut(stated.label), below, whole, "artifact", _anchor(stated.artifact))


def _anchor(artifact: str) -> str:
    return f"made-{artifact.replace('/', '-')}"


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
