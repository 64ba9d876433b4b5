"""YAML files into configurations: YAML 1.2, closed, and with errors that say where, what and how to mend it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from sdxl_core import plain_yaml
from sdxl_core.errors import UserError, did_you_mean
from sdxl_core.plain_yaml import MAX_CHARACTERS
from tasks.config import PipelineConfig
from tasks.errors import ConfigError
from tasks.manifest import Json
from tasks.mistakes import explain
from tasks.secrets import refuse_secrets

_LOCAL = ("./", "../", "~/")
SUM = " + "
"""Between models that are added up."""
Section = TypeVar("Section", bound=BaseModel)
_MOST_MISTAKES = 20  # spelt out in one message; further ones are counted


def read_config(
    path: Path,
    overrides: Sequence[str] = (),
    candidates: Sequence[str] = (),
    settings: Mapping[str, Json] | None = None,
) -> PipelineConfig:
    """Read, override (`key.path=value`, YAML values) and validate a configuration file.

    Local paths in the file are relative to the file, those in settings and overrides to the working folder. `settings`:
    a part of a configuration, laid over the file's. `candidates`: models that are judged in place of those in either.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value is not what the schema says; the message names
            file, key, what was expected, what came, and the nearest valid name.
    """
    document = resolve_paths(_read_mapping(path), path.resolve().parent)
    return build_config(document, overrides, str(path), candidates, settings)


def build_config(
    document: dict[str, Any],
    overrides: Sequence[str],
    source: str,
    candidates: Sequence[str] = (),
    settings: Mapping[str, Json] | None = None,
) -> PipelineConfig:
    """Override and validate a document that is not, or no longer, a file; its paths are absolute.

    Raises:
        ConfigError: with one line per mistake; what settings say is called `settings.key.path` in it.
    """
    if settings:
        from tasks.settings import laid_over  # makes a class of every section, which few commands need

        refuse_secrets({"settings": settings}, "parameters")
        document = laid_over(document, resolve_paths(settings, Path.cwd()))
    return build_section(PipelineConfig, with_candidates(document, candidates), overrides, source, settings or {})


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


def build_section(
    kind: type[Section],
    document: dict[str, Any],
    overrides: Sequence[str],
    source: str,
    settings: Mapping[str, Json] = MappingProxyType({}),
) -> Section:
    """The same for a class that has some of the sections of a configuration. `settings` are in the document already."""
    refuse_secrets({"overrides": [*overrides]}, source)
    for override in overrides:
        _apply_override(document, override)
    refuse_secrets(document, source)
    try:
        config = kind.model_validate(document)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        lines = [explain(source, document, mistake, settings) for mistake in mistakes[:_MOST_MISTAKES]]
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
