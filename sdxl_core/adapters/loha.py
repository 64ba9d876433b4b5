"""LoHa, by peft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peft import LoHaConfig as PeftLohaConfig
from peft import PeftConfig
from torch import nn

from sdxl_core.adapter_targets import Target
from sdxl_core.adapters.lycoris_file import write_lycoris_file
from sdxl_core.adapters.peft_folder import FromFolder
from sdxl_core.peft_layers import ADAPTER_NAME, adapted_layers, pattern
from sdxl_core.training_config import LohaConfig


class Loha(FromFolder[LohaConfig]):
    """The weight grows by alpha / rank times (w1_a @ w1_b) * (w2_a @ w2_b), elementwise."""

    def peft_config(self, target_modules: list[str], targets: Mapping[str, Target]) -> PeftConfig:
        config = self.config
        return PeftLohaConfig(
            r=config.rank,
            alpha=config.scaled_alpha,
            target_modules=target_modules,
            rank_pattern=pattern({name: target.rank for name, target in targets.items()}, config.rank),
            alpha_pattern=pattern({name: target.alpha for name, target in targets.items()}, config.scaled_alpha),
        )

    def initialise(self, module: nn.Module) -> None:
        """LyCORIS' own first weights, with which its users' learning rates work; peft's are far smaller."""
        for layer in adapted_layers(module).values():
            nn.init.normal_(layer.hada_w1_b[ADAPTER_NAME], std=1)
            nn.init.normal_(layer.hada_w1_a[ADAPTER_NAME], std=0.1)
            nn.init.normal_(layer.hada_w2_b[ADAPTER_NAME], std=1)
            nn.init.zeros_(layer.hada_w2_a[ADAPTER_NAME])

    def export(self, parts: Mapping[str, nn.Module], out: Path, provenance: Mapping[str, str]) -> None:
        super().export(parts, out, provenance)
        write_lycoris_file("loha", self.config, parts, out, provenance)
