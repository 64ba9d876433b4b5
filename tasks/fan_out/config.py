"""The section `runtime.fan_out`. Importing this imports no engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdxl_core.config import Config

EngineName = Literal["none", "threads", "processes", "dask", "ray"]
CLUSTERS = ("dask", "ray")
"""Engines that may be elsewhere."""


class FanOutConfig(Config):
    """Pictures, latents and scores that are missing, made in parts (shards) at the same time.

    What comes of it is the same, byte for byte; so nothing here enters a key. docs/scale-out.md says when it pays.
    """

    engine: EngineName = "none"
    """none: every stage by itself. threads, processes: of this machine. dask, ray: of this machine, or of the cluster
    at `address`."""
    shards: Annotated[int, Field(ge=1)] | Literal["devices"] = "devices"
    """How many parts at most. devices: as many as there are GPUs (or SDXL_FLOWS_CPU_SLOTS) here, or workers of the
    cluster. Each holds one device while it computes."""
    address: str | None = None
    """Of a cluster that runs already: Dask's scheduler (`tcp://host:8786`), or Ray (`ray://host:10001`). Its workers
    need this installation, the models in the same places, and a store that they share. Unset: on this machine, for the
    stage alone."""
    gpus_per_shard: Annotated[int, Field(ge=0)] | None = None
    """What a shard asks Dask (workers with `--resources GPU=1`) or Ray for. Unset: nothing of Dask, and of Ray one
    where it knows of GPUs."""

    @model_validator(mode="after")
    def _clusters_alone(self) -> FanOutConfig:
        for name in ("address", "gpus_per_shard"):
            if getattr(self, name) is not None and self.engine not in (*CLUSTERS, "none"):
                raise ValueError(f"{name} is for the engines {' and '.join(CLUSTERS)}, not {self.engine}")
        return self
