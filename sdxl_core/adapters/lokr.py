"""LoKr, by peft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peft import LoKrConfig as PeftLokrConfig
from peft import PeftConfig
from torch import nn

from sdxl_core.adapter_targets import Target
from sdxl_core.adapters.lycoris_file import write_lycoris_file
from sdxl_core.adapters.peft_folder import FromFolder
from sdxl_core.peft_layers import pattern
from sdxl_core.training_config import LokrConfig


class Lokr(FromFolder[LokrConfig]):
    """The weight grows by alpha / rank times the Kronecker product of w1 and w2, each whole or w_a @ w_b."""

    def peft_config(self, target_modules: list[str], targets: Mapping[str, Target]) -> PeftConfig:
        config = self.config
        return PeftLokrConfig(
            r=config.rank,
            alpha=config.scaled_alpha,
            target_modules=target_modules,
            rank_pattern=pattern({name: target.rank for name, target in targets.items()}, config.rank),
            alpha_pattern=pattern({name: target.alpha for name, target in targets.items()}, config.scaled_alpha),
            decompose_both=config.decompose_both,
            decompose_factor=-1 if config.factor is None else config.factor,
            init_weights="lycoris",
        )

    def export(self, parts: Mapping[str, nn.Module], out: Path, provenance: Mapping[str, str]) -> None:
        super().export(parts, out, provenance)
        arguments = {"factor": str(self.config.factor or -1), "decompose_both": str(self.config.decompose_both)}
        write_lycoris_file("lokr", self.config, parts, out, provenance, arguments)
