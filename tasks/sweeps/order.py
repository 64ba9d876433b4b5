"""What a sweep is asked for, checked whole before any of it runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.config import PipelineConfig
from tasks.digests import digest_json
from tasks.errors import ConfigError
from tasks.references import BASE, TRAINED
from tasks.store import ArtifactStore
from tasks.sweeps.grid import Grid, Variant, short_keys, variants_of
from tasks.sweeps.running import check_at_once, default_at_once
from tasks.sweeps.search import SearchConfig, Trial, corners, require_optuna, understood
from tasks.sweeps.variants import Asked, Prepared, judging_config, prepare_variants

_FOLDER = "sweeps"


@dataclass(frozen=True)
class Order:
    """As a command line or a flow's parameters say it."""

    asked: Asked
    grid: Grid = field(default_factory=dict)
    search: SearchConfig | None = None
    parallel: int | None = None


@dataclass(frozen=True)
class Checked:
    """An order in which nothing is wrong that can be known before it runs."""

    order: Order
    store: ArtifactStore
    judging: PipelineConfig
    """How all are judged."""
    prepared: tuple[Prepared, ...]
    """All variants of a grid; of a search, some that have all ends of its ranges."""
    at_once: int

    @property
    def name(self) -> str:
        return self.judging.name

    @property
    def metric(self) -> str:
        """By which a search goes."""
        return self.judging.evaluation.chosen_by

    @property
    def notes(self) -> list[str]:
        """For the report."""
        search = self.order.search
        if search is None:
            return []
        metric = next(one for one in self.judging.evaluation.metrics if one.id == self.metric)
        ranges = "; ".join(f"{key}: {asked}" for key, asked in search.space.items())
        return [
            f"{search.trials} trials, proposed one after the other by Optuna's TPE (seed {search.seed}) to improve "
            f"{metric.full_title} on the prompts of this page. {ranges}."
        ]

    @property
    def journal(self) -> Path:
        """Of a search's study: the same for the same search of the same data, models and metrics."""
        first, search = self.prepared[0].experiment, self.order.search
        assert search is not None
        sections = {"training", "transform", "captions", "prior", "sampling"}
        known = {
            "search": search.model_dump(mode="json", exclude={"trials"}),
            "selection": self.judging.evaluation.model_dump(mode="json", include={"selection", "seed", "replicates"}),
            "config": first.config.model_dump(mode="json", include=sections),
            "data": first.fingerprint,
            "model": first.model.digest(),
            "prompts": [prompt.as_dict() for prompt in first.looks[-1].prompts],
            "metric": next(one.identity() for one in self.judging.evaluation.metrics if one.id == self.metric),
            "weights": dict(first.metric_weights[self.metric].digests),
        }
        return self.store.root / _FOLDER / f"{digest_json(known)[:32]}.jsonl"

    def variant_of(self, trial: Trial) -> Variant:
        assert self.order.search is not None
        [config] = self.order.asked.configs
        return Variant(config, "", trial.settings, short_keys(list(self.order.search.space)))


def check(order: Order) -> Checked:
    """
    Raises:
        ConfigError: something cannot be as it is ordered; of a variant, it says which.
    """
    asked = order.asked
    variants = variants_of(asked.configs, order.grid) if order.search is None else _corners(order, order.search)
    judging = judging_config(asked, [BASE, TRAINED], order.search)
    store = judging.runtime.open_store()
    prepared = prepare_variants(asked, variants, store)
    first = prepared[0].experiment.config
    at_once = order.parallel or default_at_once(first)
    check_at_once(first, at_once)
    return Checked(order, store, judging, tuple(prepared), at_once)


def _corners(order: Order, search: SearchConfig) -> list[Variant]:
    require_optuna()
    if order.grid:
        raise ConfigError.about("sweep", expected="--grid or --optuna", got="both")
    if len(order.asked.configs) > 1:
        raise ConfigError.about("--optuna", expected="one CONFIG file", got=len(order.asked.configs))
    [config] = order.asked.configs
    keys = short_keys(list(understood(search.space)))
    return [Variant(config, "", settings, keys) for settings in corners(search.space)]


def command_of(order: Order) -> str:
    """The command that makes the report again."""
    search, words = order.search, ["sweep", *map(str, order.asked.configs)]
    for key, values in order.grid.items():
        words += ["--grid", f"{key}={_flow_style(values)}"]
    if search is not None:
        words += ["--optuna", str(search.trials)]
        words += [word for key, asked in search.space.items() for word in ("--search", f"{key}={asked}")]
        words += ["--objective", search.objective] if search.objective else []
        words += ["--search-seed", str(search.seed)] if search.seed else []
    words += [word for override in order.asked.overrides for word in ("--set", override)]
    return shlex.join(["sdxl-flows", *words])


def _flow_style(values: Sequence[Any]) -> str:
    return ",".join(value if isinstance(value, str) and _is_plain(value) else json.dumps(value) for value in values)


def _is_plain(text: str) -> bool:
    """Whether YAML reads it back as it is without quotes."""
    return text.replace("-", "").replace("_", "").replace("/", "").replace(".", "").isalpha()
