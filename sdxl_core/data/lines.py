"""Lists in a dataset artifact: one JSON object a line, each of a dataclass."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from sdxl_core.errors import UserError

T = TypeVar("T")


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> Path:
    """One a line in the order given; nothing else decides the bytes."""
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n" for value in values)
    return path


def iter_lines(path: Path, kind: type[T], what: str) -> Iterator[T]:
    """What `write_lines` wrote, one at a time; `what` is what one of them is called.

    Raises:
        UserError: the file is missing, or a line is none; the line is named.
    """
    if not path.is_file():
        raise UserError.about(str(path), expected=f"the list of a dataset artifact's {what}s", got="no such file")
    with path.open(encoding="utf-8", newline="\n") as lines:  # only \n ends a line; a caption may hold U+2028
        for number, line in enumerate(lines, start=1):
            try:
                value = kind(**json.loads(line))
            except (TypeError, ValueError) as error:
                names = ", ".join(field.name for field in fields(kind))  # type: ignore[arg-type]
                raise UserError.about(f"{path}:{number}", expected=f"a {what} with {names}", got=error) from None
            yield value
