"""YAML files into configurations: YAML 1.2, closed, and with errors that say where, what and how to mend it."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from sdxl_core import plain_yaml
from sdxl_core.errors import UserError, did_you_mean
from sdxl_core.plain_yaml import MAX_CHARACTERS, shown
from tasks.config import PipelineConfig, config_schema
from tasks.errors import ConfigError

_LOCAL = ("./", "../", "~/")
SUM = " + "
"""Between models that are added up."""
Section = TypeVar("Section", bound=BaseModel)
_MOST_MISTAKES = 20  # spelt out in one message; further ones are counted


def read_config(path: Path, overrides: Sequence[str] = (), candidates: Sequence[str] = ()) -> PipelineConfig:
    """Read, override (`key.path=value`, YAML values) and validate a configuration file.

    Local paths in the file are relative to the file, those in overrides to the working folder. `candidates`: models
    that are judged in place of those in the file.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value is not what the schema says; the message names
            file, key, what was expected, what came, and the nearest valid name.
    """
    document = resolve_paths(_read_mapping(path), path.resolve().parent)
    return build_config(with_candidates(document, candidates), overrides, str(path))


def build_config(document: dict[str, Any], overrides: Sequence[str], source: str) -> PipelineConfig:
    """Override and validate a document that is not, or no longer, a file; its paths are absolute.

    Raises:
        ConfigError: with one line per mistake.
    """
    return build_section(PipelineConfig, document, overrides, source)


def with_candidates(document: dict[str, Any], candidates: Sequence[str]) -> dict[str, Any]:
    """A document in which these models are judged, one or several; its own where there are none."""
    evaluation = document.get("evaluation")
    if not candidates or not isinstance(evaluation, dict):
        return document
    kept = {key: value for key, value in evaluation.items() if key not in ("candidate", "candidates")}
    if len(candidates) > 1:
        return {**document, "evaluation": {**kept, "candidates": list(candidates)}}
    kept.pop("selection", None)
    return {**document, "evaluation": {**kept, "candidate": candidates[0]}}


def build_section(kind: type[Section], document: dict[str, Any], overrides: Sequence[str], source: str) -> Section:
    """The same for a class that has some of the sections of a configuration."""
    for override in overrides:
        _apply_override(document, override)
    try:
        config = kind.model_validate(document)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        lines = [_explain(source, document, mistake) for mistake in mistakes[:_MOST_MISTAKES]]
        if len(mistakes) > _MOST_MISTAKES:
            lines.append(f"{source}: and {len(mistakes) - _MOST_MISTAKES} more")
        raise ConfigError("\n".join(lines)) from None
    if taken := list(_truths_taken_for_numbers(document, config)):
        raise ConfigError("\n".join(f"{source}: {key}: expected a number, got true or false" for key in taken))
    return config


def _truths_taken_for_numbers(given: Any, understood: Any, where: str = "") -> Iterator[str]:
    """Where the document says true or false and the configuration, by Python's arithmetic, understood 1 or 0."""
    if isinstance(given, bool) and not isinstance(understood, bool):
        yield where
    entries = given.items() if isinstance(given, Mapping) else enumerate(given) if isinstance(given, list) else ()
    for key, entry in entries:
        inside = understood[key] if isinstance(understood, tuple | Mapping) else getattr(understood, str(key), None)
        yield from _truths_taken_for_numbers(entry, inside, f"{where}.{key}".lstrip("."))


def resolve_paths(value: Any, folder: Path) -> Any:
    """A copy in which every string that begins with `./`, `../` or `~/` is an absolute path; every term of a sum."""
    if isinstance(value, Mapping):
        return {key: resolve_paths(entry, folder) for key, entry in value.items()}
    if isinstance(value, list):
        return [resolve_paths(entry, folder) for entry in value]
    return SUM.join(_resolved(term, folder) for term in value.split(SUM)) if isinstance(value, str) else value


def _resolved(text: str, folder: Path) -> str:
    if text.startswith(_LOCAL) or text in (".", ".."):
        return str((folder / Path(text).expanduser()).resolve())
    return text


def parse_yaml(text: str, source: str) -> Any:
    """As `plain_yaml.parse_yaml`.

    Raises:
        ConfigError: where that raises.
    """
    try:
        return plain_yaml.parse_yaml(text, source)
    except UserError as error:
        raise ConfigError(str(error)) from None


def to_yaml(document: Mapping[str, Any]) -> str:
    """A document as YAML, its keys in the order given."""
    stream = io.StringIO()
    writer = YAML(typ="rt")
    writer.width = 100
    writer.dump(dict(document), stream)
    return stream.getvalue()


def _read_mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        beside = [entry.name for entry in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such configuration file. {did_you_mean(path.name, beside)}".rstrip())
    if path.stat().st_size > 4 * MAX_CHARACTERS:
        raise ConfigError(f"{path}: longer than {MAX_CHARACTERS} characters; is it a configuration?")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, got other bytes at {error.start}") from None
    document = parse_yaml(text, str(path))
    if not isinstance(document, dict):
        got = "nothing" if document is None else type(document).__name__
        raise ConfigError(f"{path}: expected sections such as `model:` and `dataset:`, got {got}")
    return document


def _apply_override(document: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` in the document; numbers in the path index lists."""
    name, equals, text = override.partition("=")
    source = f"--set {override[:100]}"
    if not equals or not name.strip():
        raise ConfigError(f"{source}: expected KEY=VALUE, such as training.learning_rate=5e-5")
    value = resolve_paths(parse_yaml(text, source), Path.cwd())
    *parents, last = name.strip().split(".")
    here: Any = document
    for part in parents:
        here = _descend(here, part, source)
    if isinstance(here, list):
        here[_index(here, last, source)] = value
    else:
        here[last] = value


def _descend(here: Any, part: str, source: str) -> Any:
    if isinstance(here, list):
        return here[_index(here, part, source)]
    if here.get(part) is None:
        here[part] = {}
    if not isinstance(here[part], dict | list):
        raise ConfigError(f"{source}: {part} holds a value, not a section")
    return here[part]


def _index(entries: list[Any], part: str, source: str) -> int:
    if not (part.isascii() and part.isdigit()) or int(part) >= len(entries):
        raise ConfigError(f"{source}: expected an index from 0 to {len(entries) - 1}, got {part!r}")
    return int(part)


def _explain(source: str, document: Mapping[str, Any], mistake: Mapping[str, Any]) -> str:
    """One line for one pydantic mistake: file, key, expected, got, nearest name."""
    kind, loc, got = mistake["type"], mistake["loc"], mistake["input"]
    key = ".".join(_names(document, loc)) or "top level"
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
