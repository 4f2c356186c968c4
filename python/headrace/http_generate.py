"""Triton's generate extension: a flat JSON object for the inference that there is anyway.

Each member of the request that is named like an input is that input, a single value or an array of any depth; `id` is
the request's, `parameters` are its parameters, except those named like an input. The core writes the answers.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.errors import InvalidArgument
from headrace.service import ModelDescription

__all__ = ["Generation"]

_MAX_DEPTH = 32


class Generation:
    """One call of `generate` or `generate_stream`: `request` is what the core infers with."""

    def __init__(self, model: ModelDescription, asked: Mapping[str, Any], accepts: int) -> None:
        """`accepts`: how the answer may be compressed. InvalidArgument: a member is no input, or no tensor can be made
        of it."""
        self.accepts = accepts
        signature = {tensor["name"]: tensor for tensor in model.inputs}
        given = dict(asked)
        request: dict[str, Any] = {}
        if "id" in given and "id" not in signature:
            request["id"] = given.pop("id")
        parameters = given.pop("parameters", {}) if "parameters" not in signature else {}
        if not isinstance(parameters, dict):
            raise InvalidArgument("'parameters' must be a JSON object")
        given |= {name: value for name, value in parameters.items() if name in signature}
        request["parameters"] = {name: value for name, value in parameters.items() if name not in signature}
        for name in given:
            if name not in signature:
                names = ", ".join(f"'{known}'" for known in signature)
                raise InvalidArgument(f"model '{model.name}' has no input '{name}'; its inputs are: {names}")
        request["inputs"] = [
            {
                "name": name,
                "datatype": signature[name]["datatype"],
                "shape": _shape(name, value, signature[name]["shape"]),
                "data": value if isinstance(value, list) else [value],
            }
            for name, value in given.items()
        ]
        for tensor in request["inputs"]:
            tensor["data"] = _flat(tensor["data"])
        self.request = json.dumps(request).encode()


def _dims(name: str, value: Any, depth: int = 0) -> list[int]:
    """The dimensions of nested arrays."""
    if not isinstance(value, list):
        return []
    if depth == _MAX_DEPTH:
        raise InvalidArgument(f"'{name}' has more than {_MAX_DEPTH} arrays in one another")
    parts = [_dims(name, part, depth + 1) for part in value]
    if any(part != parts[0] for part in parts):
        raise InvalidArgument(f"'{name}' is a ragged array: its parts must have equal lengths")
    return [len(value), *(parts[0] if parts else [])]


def _shape(name: str, value: Any, signature: Sequence[int]) -> list[int]:
    """With ones in front to make up the signature's rank."""
    dims = _dims(name, value)
    return [1] * (len(signature) - len(dims)) + dims


def _flat(values: list[Any]) -> list[Any]:
    flat: list[Any] = []
    stack = [iter(values)]
    while stack:
        for value in stack[-1]:
            if isinstance(value, list):
                stack.append(iter(value))
                break
            flat.append(value)
        else:
            stack.pop()
    return flat
