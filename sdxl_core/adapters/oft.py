"""OFT, by peft."""

from __future__ import annotations

from collections.abc import Mapping

from peft import OFTConfig as PeftOftConfig
from peft import PeftConfig

from sdxl_core.adapter_targets import Target
from sdxl_core.adapters.peft_folder import FromFolder
from sdxl_core.training_config import OftConfig


class Oft(FromFolder[OftConfig]):
    """Every layer sees its input turned: W x becomes W R' x, R of orthogonal blocks (I - Q) (I + Q)^-1, Q = -Q'.

    peft's rotation of a convolution adds up overlapping patches, so that even R = I changes its input; therefore linear
    layers alone. LyCORIS' and kohya's OFT turn the output instead: no file of theirs can hold this.
    """

    def peft_config(self, target_modules: list[str], targets: Mapping[str, Target]) -> PeftConfig:
        return PeftOftConfig(
            oft_block_size=self.config.block_size, target_modules=target_modules, use_cayley_neumann=False
        )
