"""GPUs by their memory, and what is assumed of what cannot be counted. None of it was measured on a GPU by us."""

from __future__ import annotations

from dataclasses import dataclass

from sdxl_core.config import Precision

GiB = 2**30
LIBRARIES_BYTES = GiB // 2
"""Taken by CUDA, cuBLAS and cuDNN before a tensor is there: an assumption."""
SLACK = 1.05
"""What torch's allocator holds beyond the tensors, as it rounds and fragments: an assumption."""
UTILISATION = 0.2
"""Share of a GPU's peak arithmetic that training is assumed to reach. Published SDXL trainings reach 0.03 (one row at a
time on an H100: SimpleTuner, SEGMENTED_CHECKPOINTING.md) to 0.23 (RTX 4090, eight rows: kohya_ss issue 1288)."""

HOST_S_PER_OPERATION = 10e-6
"""What Python and torch take to start an operation on a GPU, which limits fast GPUs with few rows: an assumption."""


@dataclass(frozen=True)
class Card:
    """A GPU; its peak is the vendor's, dense, with sums in float32."""

    name: str
    memory_gb: int
    half_tflops: float
    """In bf16 and fp16."""
    single_tflops: float
    """In float32, without TF32, which torch leaves off for matrix products."""

    def holds(self, needed_bytes: int) -> bool:
        return needed_bytes <= self.memory_gb * GiB

    def seconds(self, flops: int, operations: int, precision: Precision) -> float:
        """Of a step: what the GPU or what the host takes, whichever is more."""
        peak = self.single_tflops if precision == "fp32" else self.half_tflops
        return max(flops / (UTILISATION * peak * 1e12), operations * HOST_S_PER_OPERATION)


CARDS = (
    Card("RTX 4060", 8, 30, 15),
    Card("RTX 3060", 12, 25, 13),
    Card("RTX 4080", 16, 97, 49),
    Card("RTX 4090", 24, 165, 83),
    Card("A100", 40, 312, 19.5),
    Card("H100", 80, 989, 67),
)


def on_a_gpu(tensor_bytes: int) -> int:
    """Memory that a GPU needs for so many bytes of tensors."""
    return int(tensor_bytes * SLACK) + LIBRARIES_BYTES
