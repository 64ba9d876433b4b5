"""Every combination of settings: what `--grid` says, and the variants that it makes.

--grid training.seed=1,2,3 --grid training.adapter.rank=4,16
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl_core.errors import did_you_mean
from tasks.config import PipelineConfig
from tasks.digests import digest_json
from tasks.errors import ConfigError
from tasks.manifest import Json
from tasks.yaml_config import parse_yaml

SEED = "training.seed"
SECTIONS = ("training", "transform", "captions", "dataset", "prior", "feedback")
"""Of a configuration, those that say what is trained."""
MOST_VARIANTS = 500
_MOST_LETTERS = 40
"""Of a name in a folder's."""
_LONGEST = 60

Grid = Mapping[str, Sequence[Json]]


@dataclass(frozen=True)
class Variant:
    """One training of a sweep."""

    config: Path
    method: str
    """What its file is called; empty where there is one file only."""
    settings: tuple[tuple[str, Json], ...]
    """Key -> value, over those of the file."""
    keys: Mapping[str, str]
    """How each key is called in a name."""

    @property
    def name(self) -> str:
        """`lora: rank=4, seed=1`"""
        return _named(self.method, self.shown(self.settings))

    @property
    def group(self) -> str:
        """The same without the seed."""
        return _named(self.method, self.shown(self.without_seed)) or "all"

    @property
    def seed(self) -> str:
        """As it is shown; empty where the sweep does not vary it."""
        return next((value_in_words(value) for key, value in self.settings if key == SEED), "")

    @property
    def without_seed(self) -> tuple[tuple[str, Json], ...]:
        return tuple((key, value) for key, value in self.settings if key != SEED)

    @property
    def slug(self) -> str:
        """For folders: letters, digits and `-`; unique in any sweep."""
        text = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        unique = digest_json([self.method, [list(setting) for setting in self.settings]])[:6]
        return f"{text[:_MOST_LETTERS].strip('-')}-{unique}" if text else unique

    @property
    def overrides(self) -> list[str]:
        """As `--set` takes them."""
        return [f"{key}={json.dumps(value)}" for key, value in self.settings]

    def shown(self, settings: Sequence[tuple[str, Json]]) -> str:
        return ", ".join(f"{self.keys[key]}={value_in_words(value)}" for key, value in settings)


def parse_grid(texts: Sequence[str]) -> dict[str, list[Json]]:
    """`KEY=VALUE,VALUE` of the command line -> key -> values, read as YAML.

    Raises:
        ConfigError: a text is none, or a key is given twice.
    """
    grid: dict[str, list[Json]] = {}
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        source = f"--grid {text[:100]}"
        if not equals or not key or not values:
            raise ConfigError(f"{source}: expected KEY=VALUE,VALUE, such as training.adapter.rank=4,16")
        if key in grid:
            raise ConfigError(f"{source}: {key} is varied already; give all its values at once")
        grid[key] = parse_yaml(f"[{values}]", source)
    return grid


def variants_of(configs: Sequence[Path], grid: Grid) -> list[Variant]:
    """Every file with every combination of values, the last key varying fastest.

    Raises:
        ConfigError: something in it cannot be varied, there is nothing to vary, or too much.
    """
    check_keys("--grid", grid)
    for key, values in grid.items():
        repeated = [text for text, count in Counter(json.dumps(v, sort_keys=True) for v in values).items() if count > 1]
        if not values or repeated:
            got = f"{repeated[0]} more than once" if repeated else "none"
            raise ConfigError.about(f"--grid {key}", expected="different values", got=got)
    count = len(configs) * math.prod(len(values) for values in grid.values())
    if not 2 <= count <= MOST_VARIANTS:
        fix = "Vary something: --grid training.seed=1,2,3, or several files" if count < 2 else "Vary less at once"
        raise ConfigError.about("sweep", expected=f"2 to {MOST_VARIANTS} variants", got=count, fix=fix)
    methods = method_names(configs)
    keys = short_keys(list(grid))
    return [
        Variant(config, method, tuple(zip(grid, values, strict=True)), keys)
        for config, method in zip(configs, methods, strict=True)
        for values in itertools.product(*grid.values())
    ]


def check_keys(where: str, keys: Mapping[str, Any]) -> None:
    """Raises ConfigError where a key is not one of a training's."""
    for key in keys:
        section = key.partition(".")[0]
        if section in SECTIONS and "." in key:
            continue
        near = did_you_mean(section, SECTIONS)
        if section in PipelineConfig.model_fields and section not in SECTIONS:
            near = "All variants are judged alike; set it once, with --set"
        expected = f"a setting of {', '.join(SECTIONS)}, such as training.adapter.rank"
        raise ConfigError.about(f"{where} {key}", expected=expected, got=repr(key), fix=near)


def method_names(configs: Sequence[Path]) -> list[str]:
    """What the files are called, by as much of their places as tells them apart.

    Raises:
        ConfigError: a file is given twice.
    """
    places = [config.resolve() for config in configs]
    if len(set(places)) < len(places):
        twice = next(place for place, count in Counter(places).items() if count > 1)
        raise ConfigError.about("sweep", expected="different CONFIG files", got=f"{twice.name} twice")
    if len(configs) == 1:
        return [""]
    parts = [place.with_suffix("").parts for place in places]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Of dotted keys, as much of the end as tells them apart."""
    for depth in range(1, 1 + max((key.count(".") + 1 for key in keys), default=0)):
        short = {key: ".".join(key.split(".")[-depth:]) for key in keys}
        if len(set(short.values())) == len(short):
            return short
    return {key: key for key in keys}


def value_in_words(value: Json) -> str:
    """A section of a kind is called by its kind, where it says nothing else."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        text = Path(value).name if value.startswith(("./", "../", "~/", "/")) else value
    elif isinstance(value, dict) and set(value) == {"kind"}:
        text = str(value["kind"])
    else:
        text = json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _named(method: str, settings: str) -> str:
    return ": ".join(part for part in (method, settings) if part)
