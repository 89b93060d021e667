"""Peaks of GPUs by the names that drivers give."""

from __future__ import annotations

import pytest

from bench.gpu.peaks import peak_tflops


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA GeForce RTX 4090", 165.0),
        ("cpu", None),
    ],
)
def test_a_device_has_the_peak_of_its_data_sheet(device: str, peak: float | None) -> None:
    assert peak_tflops(device) == peak
