"""Quantises ONNX files to int8: weights once, with a scale for each channel, and activations as they come."""

from __future__ import annotations

import logging
from pathlib import Path


def quantise(file: Path, target: Path, *, external_data: bool) -> None:
    """Write the network of ``file`` into ``target`` with its linear layers in int8; the rest stays as it is.

    ONNX Runtime has one scale for the activations of a whole batch. ``external_data`` puts the weights into a file
    beside ``target``, which files of 2 GB and more need. Raises ImportError if the quantiser or onnx is not installed.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It advises to optimise the file first, which ONNX Runtime does whenever it loads one.
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(
            file, target, weight_type=QuantType.QInt8, per_channel=True, use_external_data_format=external_data
        )
    finally:
        logging.disable(logging.NOTSET)
