"""Describes a cascade to KServe v2 clients as one model: its metadata, configuration and statistics."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2

from cascade_api.names import INPUT_PROMPT, OUTPUT_IMAGE

from ..requests import MAX_IMAGES
from ..runtime import CascadeRuntime
from .kserve import ALL_INPUTS, DESCRIBED_OUTPUTS, INPUTS, OUTPUTS, VERSION

PLATFORM = "cascade"
_CONFIG_TYPES = {
    "BYTES": "TYPE_STRING",
    "INT64": "TYPE_INT64",
    "FP32": "TYPE_FP32",
    "BOOL": "TYPE_BOOL",
    "UINT8": "TYPE_UINT8",
}


def model_metadata(runtime: CascadeRuntime, *, model: str) -> Any:
    response = service_pb2.ModelMetadataResponse(name=model, versions=[VERSION], platform=PLATFORM)
    for name, datatype in _inputs(runtime).items():
        response.inputs.add(name=name, datatype=datatype, shape=[-1, 1])
    for name in DESCRIBED_OUTPUTS:
        response.outputs.add(name=name, datatype=OUTPUTS[name], shape=[-1, *_dims(runtime, name)])
    return response


def model_config(runtime: CascadeRuntime, *, model: str) -> Any:
    config = model_config_pb2.ModelConfig(name=model, platform=PLATFORM, max_batch_size=MAX_IMAGES)
    for name, datatype in _inputs(runtime).items():
        config.input.add(name=name, data_type=_CONFIG_TYPES[datatype], dims=[1], optional=name != INPUT_PROMPT)
    for name in DESCRIBED_OUTPUTS:
        config.output.add(name=name, data_type=_CONFIG_TYPES[OUTPUTS[name]], dims=_dims(runtime, name))
    return service_pb2.ModelConfigResponse(config=config)


def model_statistics(runtime: CascadeRuntime, *, model: str) -> Any:
    tally = runtime.tally
    answers = sum(tally.routes.values())
    statistics = service_pb2.ModelStatistics(
        name=model, version=VERSION, inference_count=answers, execution_count=answers
    )
    statistics.inference_stats.success.count = answers
    statistics.inference_stats.success.ns = int(tally.latency_total_s * 1e9)
    statistics.inference_stats.fail.count = sum(tally.refusals.values())
    return statistics


def _inputs(runtime: CascadeRuntime) -> dict[str, str]:
    """The inputs of a cascade; files only where a variant edits images."""
    return ALL_INPUTS if any(variant.edits for variant in runtime.plan.variants.values()) else INPUTS


def _dims(runtime: CascadeRuntime, output: str) -> list[int]:
    if output != OUTPUT_IMAGE:
        return [1]
    image = runtime.plan.image
    return [image.height, image.width, 3] if len(runtime.plan.sizes) == 1 else [-1, -1, 3]
