"""YAML files into configurations: YAML 1.2, closed, and with errors that say where, what and how to mend it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from sdxl_core.errors import did_you_mean
from tasks.config import PipelineConfig, config_schema
from tasks.errors import ConfigError

_LOCAL = ("./", "../", "~/")
_MAX_CHARACTERS = 40_000  # a configuration has some 1500; the parser takes a second for so many
_MAX_DEPTH = 20
_MOST_SHOWN = 120  # characters of a value that an error repeats
_DIRECTIVE = re.compile(r"^\ufeff?%", re.MULTILINE)


def read_config(path: Path, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Read, override (`key.path=value`, YAML values) and validate a configuration file.

    Local paths in the file are relative to the file, those in overrides to the working folder.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value is not what the schema says; the message names
            file, key, what was expected, what came, and the nearest valid name.
    """
    return build_config(resolve_paths(_read_mapping(path), path.resolve().parent), overrides, str(path))


def build_config(document: dict[str, Any], overrides: Sequence[str], source: str) -> PipelineConfig:
    """Override and validate a document that is not, or no longer, a file; its paths are absolute.

    Raises:
        ConfigError: with one line per mistake.
    """
    for override in overrides:
        _apply_override(document, override)
    try:
        return PipelineConfig.model_validate(document)
    except ValidationError as error:
        lines = [_explain(source, document, mistake) for mistake in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines)) from None


def resolve_paths(value: Any, folder: Path) -> Any:
    """A copy in which every string that begins with `./`, `../` or `~/` is an absolute path."""
    if isinstance(value, Mapping):
        return {key: resolve_paths(entry, folder) for key, entry in value.items()}
    if isinstance(value, list):
        return [resolve_paths(entry, folder) for entry in value]
    if isinstance(value, str) and (value.startswith(_LOCAL) or value in (".", "..")):
        return str((folder / Path(value).expanduser()).resolve())
    return value


def parse_yaml(text: str, source: str) -> Any:
    """Parse one YAML 1.2 document of plain values.

    Raises:
        ConfigError: not YAML, another YAML than 1.2, too long or too deep, more than one document, a key given twice,
            an alias, a number that is not finite or too large, or a text that no file could be named by.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ConfigError(f"{source}: longer than {_MAX_CHARACTERS} characters; is it a configuration?")
    if _DIRECTIVE.search(text):
        raise ConfigError(f"{source}: a line that begins with %; files are read as YAML 1.2, remove the directive")
    reader = YAML(typ="safe", pure=True)
    reader.Composer = _PlainComposer
    try:
        value = reader.load(text)
    except DuplicateKeyError as error:
        raise ConfigError(
            f"{source}{_line(error)}: {str(error.problem).splitlines()[0]}; give every key once"
        ) from None
    except _NotPlain as error:
        raise ConfigError(f"{source}{_line(error)}: {error.problem}") from None
    except MarkedYAMLError as error:
        raise ConfigError(f"{source}{_line(error)}: not YAML: {error.problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not YAML: {str(error).splitlines()[0]}") from None
    for where, mistake in _unusable(value):
        raise ConfigError(f"{source}: {where or 'value'}: {mistake}")
    return value


class _NotPlain(MarkedYAMLError):
    """YAML, but of a kind that no configuration needs."""


class _PlainComposer(Composer):
    """Refuses aliases and deep nesting where it meets them, before a few bytes can cost much time or memory."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.parser.peek_event().start_mark
        if self.parser.check_event(AliasEvent):
            raise _NotPlain(problem="aliases (`*name`) are not accepted; write the value out", problem_mark=mark)
        if self._depth == _MAX_DEPTH:
            raise _NotPlain(problem=f"nested deeper than {_MAX_DEPTH} levels", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


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
    if path.stat().st_size > 4 * _MAX_CHARACTERS:
        raise ConfigError(f"{path}: longer than {_MAX_CHARACTERS} characters; is it a configuration?")
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
    source = f"--set {override}"
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
            source, key, f"expected one of {', '.join(choices)}, got {_shown(context['tag'])}", context["tag"], choices
        )
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return _sentence(source, key, f"expected one of {', '.join(choices)}, got {_shown(got)}", str(got), choices)
    message = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if kind == "model_type":
        message = "expected a section (key: value)"
    elif isinstance(got, Mapping):
        return f"{source}: {key}: {message}"
    return f"{source}: {key}: {message}, got {_shown(got)}"


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
    schema = config_schema()

    def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" in node:
            return resolved(schema["$defs"][node["$ref"].removeprefix("#/$defs/")])
        sections = [entry for entry in node.get("anyOf", []) if entry.get("type") != "null"]
        return resolved(sections[0]) if len(sections) == 1 else node

    node = resolved(schema)
    for part in loc:
        if "discriminator" in node:
            node = resolved({"$ref": node["discriminator"]["mapping"][part]})
        elif "items" in node:
            node = resolved(node["items"])
        else:
            node = resolved(node["properties"][part])
    properties: Mapping[str, Any] = node["properties"]
    return properties


def _unusable(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """(key, reason) of numbers and texts that no setting can take, and that would fail far from here."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where, "expected a finite number, got nan or inf"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield where, f"expected an integer of at most 64 bits, got one of {value.bit_length()}"
    elif isinstance(value, str) and ("\0" in value or not value.isascii() and _surrogates(value)):
        yield where, f"expected text, got {_shown(value)}, which holds a character that is none"
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield from _unusable(entry, f"{where}.{name}".lstrip("."))


def _surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _shown(got: object) -> str:
    """What came, cut to what a line can hold."""
    text = repr(got)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... ({len(text)} characters)"


def _line(error: MarkedYAMLError) -> str:
    return f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
