"""How much each timestep counts, `training.weighting`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdxl_core.config import Config
from sdxl_core.training_config.numbers import NotNegative, Positive


class UniformWeighting(Config):
    """Every timestep weighs the same."""

    kind: Literal["uniform"] = "uniform"


class MinSnrWeighting(Config):
    """min(SNR, gamma): high signal-to-noise ratios weigh no more than gamma (Hang et al. 2023, arXiv:2303.09556)."""

    kind: Literal["min_snr"]
    gamma: Positive = 5.0


class SoftMinSnrWeighting(Config):
    """SNR gamma / (SNR + gamma): as min_snr, without its corner (Crowson et al. 2024, arXiv:2401.11605)."""

    kind: Literal["soft_min_snr"]
    gamma: Positive = 5.0


class DebiasedWeighting(Config):
    """1 / sqrt(SNR) of the noise's error, SNR capped (Yu et al. 2023, arXiv:2310.08442)."""

    kind: Literal["debiased"]
    largest_snr: Positive = 1000.0


class P2Weighting(Config):
    """(k + SNR) ** -gamma of the noise's error (Choi et al. 2022, arXiv:2204.00227)."""

    kind: Literal["p2"]
    gamma: NotNegative = 1.0
    k: Positive = 1.0


Weighting = Annotated[
    UniformWeighting | MinSnrWeighting | SoftMinSnrWeighting | DebiasedWeighting | P2Weighting,
    Field(discriminator="kind"),
]
