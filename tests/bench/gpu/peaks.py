"""Peak arithmetic of GPUs: dense FP16/BF16 tensor operations with FP32 accumulation, in TFLOP/s.

From NVIDIA's data sheets of the products (H100, H200, A100, L40S, L4, A10, B200 Tensor Core GPU; the Ada GPU
architecture white paper for GeForce), without sparsity, at boost clocks.
"""

from __future__ import annotations

from typing import Final

TFLOPS: Final = {
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H200": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
}
"""By a part of the name that the driver gives, longer parts first."""


def peak_tflops(device: str) -> float | None:
    """Peak of the GPU of that name; None where the table does not know it."""
    return next((peak for part, peak in TFLOPS.items() if f"{part} " in f"{device} ".replace("-", " ")), None)
