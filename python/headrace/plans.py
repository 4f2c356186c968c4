"""What config.pbtxt must say of a ready-made TensorRT engine, which does not say it of itself. Pure."""

from typing import TYPE_CHECKING, Any

from headrace import _proto
from headrace.batching_config import ConfigReader
from headrace.datatypes import datatype

if TYPE_CHECKING:
    from headrace.sessions import StatedTensors, TensorInfo

__all__ = ["BACKEND", "check", "stated"]

BACKEND = "tensorrt"
_TYPES = {"FP32", "FP16", "BF16", "INT8", "UINT8", "INT32", "INT64", "BOOL"}


def check(reader: ConfigReader, message: Any) -> None:
    """InvalidArgument names the input or output that is not written, or not wholly, or as no engine can have it."""
    for kind, tensors in (("input", message.input), ("output", message.output)):
        if not tensors:
            raise reader.wrong(f"a TensorRT plan does not say what it takes and gives: write every {kind} of it here")
        for tensor in tensors:
            where = f"{kind} '{tensor.name}'"
            if not tensor.dims and not message.max_batch_size:
                raise reader.wrong(f"{where} has no dims, and a TensorRT plan does not say them: write them here")
            if datatype(tensor.data_type) not in _TYPES:
                name = _proto.DataType(tensor.data_type).name
                raise reader.wrong(f"{where} is {name}, which TensorRT lacks: give the type that it was built with")


def stated(message: Any) -> "StatedTensors":
    """The signature as the file writes it; with max_batch_size a batch dimension stands before all dims."""
    first = [-1] if message.max_batch_size else []

    def rows(tensors: Any) -> "list[TensorInfo]":
        return [
            {"name": t.name, "datatype": datatype(t.data_type), "shape": [*first, *t.dims], "optional": False}
            for t in tensors
        ]

    return {"inputs": rows(message.input), "outputs": rows(message.output)}
