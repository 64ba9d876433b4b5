"""What training needs less memory by: `training.attention` and `training.base_quantization`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from sdxl_core.config import Config
from sdxl_core.errors import UserError

Attention = Literal["auto", "sdpa", "xformers", "math"]


class QuantizationConfig(Config):
    """The frozen UNet's linear layers in fewer bits; each is taken back to numbers just where it is used."""

    kind: Literal["int8", "fp8", "nf4"]
    """int8: 8 bits, a scale for each output (Dettmers et al. 2022, arXiv:2208.07339, section 2.1); fp8: 8-bit floats of
    4 bits exponent, a scale for each output (Micikevicius et al. 2022, arXiv:2209.05433); nf4: 4 bits, a scale for
    each 64 weights (Dettmers et al. 2023, arXiv:2305.14314)."""


def require_attention(attention: Attention) -> None:
    """Raises UserError where the package that is asked for is not installed; imports nothing."""
    if attention == "xformers" and find_spec("xformers") is None:
        raise UserError(
            "training.attention = xformers needs the package xformers: install with pip install -e '.[xformers]', "
            "or set training.attention=auto"
        )
