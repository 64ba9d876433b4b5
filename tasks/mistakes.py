"""What pydantic finds wrong with a configuration, in words for whoever wrote it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sdxl_core.errors import did_you_mean
from sdxl_core.plain_yaml import shown
from tasks.config import config_schema
from tasks.manifest import Json


def explain(source: str, document: Mapping[str, Any], mistake: Mapping[str, Any], settings: Mapping[str, Json]) -> str:
    """One line for one pydantic mistake: file, key, expected, got, nearest name."""
    kind, loc, got = mistake["type"], mistake["loc"], mistake["input"]
    source, key = _place(source, list(_names(document, loc)), settings)
    context = mistake.get("ctx", {})
    if kind == "extra_forbidden":
        known = sorted(_known_keys(loc[:-1]))
        return _sentence(source, key, f"unknown key; expected one of {', '.join(known)}", str(loc[-1]), known)
    if kind == "missing":
        return f"{source}: {key}: missing; it has no default"
    if kind == "union_tag_not_found":
        return f"{source}: {key}.{context['discriminator'].strip(chr(39))}: missing; it says what the section is"
    if kind == "union_tag_invalid":
        choices = context["expected_tags"].replace("'", "").split(", ")
        key = f"{key}.{context['discriminator'].strip(chr(39))}"
        return _sentence(
            source, key, f"expected one of {', '.join(choices)}, got {shown(context['tag'])}", context["tag"], choices
        )
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return _sentence(source, key, f"expected one of {', '.join(choices)}, got {shown(got)}", str(got), choices)
    message = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if kind == "model_type":
        message = "expected a section (key: value)"
    elif isinstance(got, Mapping):
        return f"{source}: {key}: {message}"
    return f"{source}: {key}: {message}, got {shown(got)}"


def _place(source: str, names: Sequence[str], settings: Mapping[str, Json]) -> tuple[str, str]:
    """-> who says it, and how it is called there."""
    if _stands_in(settings, names):
        return "parameters", ".".join(["settings", *names])
    return source, ".".join(names) or "top level"


def _sentence(source: str, key: str, message: str, got: str, choices: Sequence[str]) -> str:
    return f"{source}: {key}: {message}. {did_you_mean(got, choices)}".rstrip(" ")


def _names(document: Any, loc: Sequence[int | str]) -> Iterator[str]:
    """A mistake's place as it reads in the file: pydantic also lists the tags of unions, which stand nowhere there."""
    here = document
    for depth, part in enumerate(loc):
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            if depth < len(loc) - 1:
                continue
        yield str(part)


def _stands_in(settings: Json, names: Sequence[str]) -> bool:
    """Whether it is settings that say what is called so, or a part of it."""
    for name in names:
        if not isinstance(settings, Mapping):
            return settings is not None  # a list takes the place of the file's, with all its entries
        if name not in settings:
            return False
        settings = settings[name]
    return bool(names)


def _known_keys(loc: Sequence[int | str]) -> Mapping[str, Any]:
    """The keys that the section at a mistake's place may hold."""
    schema = _schema()

    def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" in node:
            return resolved(schema["$defs"][node["$ref"].removeprefix("#/$defs/")])
        choices = [] if "discriminator" in node else [*node.get("anyOf", []), *node.get("oneOf", [])]
        sections = [entry for entry in choices if entry.get("type") not in ("null", "string")]
        return resolved(sections[0]) if len(sections) == 1 else node

    node = resolved(schema)
    for part in loc:
        if "discriminator" in node:
            node = resolved({"$ref": node["discriminator"]["mapping"][part]})
        elif "items" in node:
            node = resolved(node["items"])
        elif "properties" not in node:  # names of the user's own, such as concepts
            node = resolved(node["additionalProperties"])
        elif part in node["properties"]:  # else the tag of a union whose members are told apart by their kind
            node = resolved(node["properties"][part])
    properties: Mapping[str, Any] = node["properties"]
    return properties


@functools.cache
def _schema() -> Mapping[str, Any]:
    return config_schema()
