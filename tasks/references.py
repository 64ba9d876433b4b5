"""How a model is named: on the command line, in a flow's parameter and in a configuration alike.

    base | trained | dog.safetensors | dog.safetensors:0.8 + org/style@v2:0.5 | a folder | train/1f3a | a run's name

docs/evaluation/models.md says what each means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ConfigError
from tasks.yaml_config import SUM, resolve_paths

BASE, TRAINED = "base", "trained"
_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?P<file>(/[\w.-]+)*\.safetensors)?(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Term:
    """One of the things that are added up."""

    what: str
    scale: float

    @property
    def is_local(self) -> bool:
        return self.what.startswith("/")

    @property
    def name(self) -> str:
        """For people."""
        what = self.what
        if self.is_local:
            path = Path(what)
            what = path.stem if path.suffix == ".safetensors" else path.name
        return what if self.scale == 1 else f"{what} x {self.scale:g}"


@dataclass(frozen=True)
class HubModel:
    repository: str
    file: str | None
    revision: str | None


def parse_reference(reference: str, where: str) -> tuple[Term, ...]:
    """Local paths in it are absolute.

    Raises:
        ConfigError: a scale is no number, or a name is missing; it names the setting `where`.
    """
    return tuple(_term(text.strip(), where) for text in reference.split(SUM))


def hub_model(what: str, where: str) -> HubModel:
    """`org/name`, `org/name/file.safetensors`, either with `@revision`. Raises ConfigError where it is none."""
    match = _HUB.fullmatch(what)
    if match is None:
        fix = "A local path begins with ./, ../, / or ~"
        expected = "base, trained, a local path, a hub id, a run's name or train/KEY"
        raise ConfigError.about(where, expected=expected, got=repr(what), fix=fix)
    file = match["file"]
    return HubModel(match["repository"], file.lstrip("/") if file else None, match["revision"])


def names_trained(references: Sequence[str]) -> bool:
    """Whether one of them needs what the configuration trains."""
    terms = (term for reference in references for term in reference.split(SUM))
    return any(term.partition(":")[0].strip() == TRAINED for term in terms)


def as_local(reference: str) -> str:
    """As it is said on a command line: what exists here is a local path."""
    terms = (str(Path(term).absolute()) if _exists(term) else term for term in reference.split(SUM))
    return SUM.join(resolve_paths(term, Path.cwd()) for term in terms)


def _exists(term: str) -> bool:
    return term not in (BASE, TRAINED) and any(Path(text).exists() for text in (term, term.rpartition(":")[0]) if text)


def _term(text: str, where: str) -> Term:
    what, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        what, number = text, "1"
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if not what or not math.isfinite(scale):
        expected = f"a model, or several joined by '{SUM}', each perhaps with a scale: ./dog.safetensors:0.8"
        raise ConfigError.about(where, expected=expected, got=repr(text))
    return Term(what, scale)
