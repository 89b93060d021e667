"""Makes the int8 files of the denoisers from their ONNX files: `python -m cascade_models.shapes.training.quantise`.

The same file comes out whenever the same version of ONNX Runtime makes it. The discriminator stays as it is: it is
small, and thresholds are set on its scores.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import tempfile

import numpy as np
import onnx
from onnx import numpy_helper

from cascade_models import quantising
from cascade_models.shapes import assets


def write(directory: pathlib.Path) -> None:
    """Write ``heavy.int8.onnx`` and ``light.int8.onnx`` into ``directory``, beside the files that they are made of."""
    for name in assets.DENOISERS:
        model = onnx.load(assets.path(name, "onnx", directory))
        _widen(model.graph)
        with tempfile.TemporaryDirectory(prefix="cascade-quantise-") as scratch:
            wide = pathlib.Path(scratch) / "wide.onnx"
            onnx.save(model, wide)
            quantising.quantise(wide, directory / f"{name}.{assets.QUANTISED}", external_data=False)


def record(directory: pathlib.Path) -> None:
    """Write the SHA-256 of the int8 files into the metadata."""
    file = directory / assets.METADATA
    document = json.loads(file.read_text(encoding="utf-8"))
    for name in assets.DENOISERS:
        made = assets.path(name, assets.QUANTISED, directory)
        document["sha256"][made.name] = hashlib.sha256(made.read_bytes()).hexdigest()
    document["sha256"] = dict(sorted(document["sha256"].items()))
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _widen(graph: onnx.GraphProto) -> None:
    """Store as float32 what `export` stored as float16 behind casts: the quantiser only sees constants."""
    constants = {constant.name: constant for constant in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in constants:
            constant = constants[node.input[0]]
            array = numpy_helper.to_array(constant).astype(np.float32)
            constant.CopyFrom(numpy_helper.from_array(array, node.output[0]))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


if __name__ == "__main__":
    write(assets.WEIGHTS)
    record(assets.WEIGHTS)
