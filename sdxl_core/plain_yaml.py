"""YAML 1.2 of plain values, and nothing that can cost more time or memory than it looks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from sdxl_core.errors import UserError

MAX_CHARACTERS = 20_000  # a configuration has some 1500; the parser takes a second for so many
_MAX_DEPTH = 20
_MOST_SHOWN = 120  # characters of a value that an error repeats
_DIRECTIVE = re.compile(r"^\ufeff?%", re.MULTILINE)


def parse_yaml(text: str, source: str) -> Any:
    """Parse one YAML 1.2 document of plain values.

    Raises:
        UserError: not YAML, another YAML than 1.2, too long or too deep, more than one document, a key given twice,
            an alias, a number that is not finite or too large, or a text that no file could be named by.
    """
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{source}: longer than {MAX_CHARACTERS} characters; is it a configuration?")
    if _DIRECTIVE.search(text):
        raise UserError(f"{source}: a line that begins with %; files are read as YAML 1.2, remove the directive")
    reader = YAML(typ="safe", pure=True)
    reader.Composer = _PlainComposer
    try:
        value = reader.load(text)
    except DuplicateKeyError as error:
        raise UserError(f"{source}{_line(error)}: {str(error.problem).splitlines()[0]}; give every key once") from None
    except _NotPlain as error:
        raise UserError(f"{source}{_line(error)}: {error.problem}") from None
    except MarkedYAMLError as error:
        raise UserError(f"{source}{_line(error)}: not YAML: {error.problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: not YAML: {str(error).splitlines()[0]}") from None
    for where, mistake in _unusable(value):
        raise UserError(f"{source}: {where or 'value'}: {mistake}")
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


def shown(got: object) -> str:
    """What came, cut to what a line can hold."""
    text = repr(got)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... ({len(text)} characters)"


def _unusable(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """(key, reason) of numbers and texts that no setting can take, and that would fail far from here."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where, "expected a finite number, got nan or inf"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield where, f"expected an integer of at most 64 bits, got one of {value.bit_length()}"
    elif isinstance(value, str) and ("\0" in value or (not value.isascii() and _surrogates(value))):
        yield where, f"expected text, got {shown(value)}, which holds a character that is none"
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield from _unusable(entry, f"{where}.{name}".lstrip("."))


def _surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _line(error: MarkedYAMLError) -> str:
    return f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
