"""JSON bodies <-> values: parameters of a request, and messages of protobuf as objects."""

import base64
import binascii
from typing import Any

from headrace.errors import InvalidArgument
from headrace.http_message import Request

__all__ = ["from_base64", "parameters_of", "plain", "texts_of"]


def parameters_of(request: Request) -> dict[str, Any]:
    """The object `parameters` of a body; InvalidArgument names one of a kind that it cannot be."""
    given = request.json().get("parameters", {})
    if not isinstance(given, dict):
        raise InvalidArgument("'parameters' must be a JSON object")
    for key, value in given.items():
        if not isinstance(value, bool | int | str | None):
            raise InvalidArgument(f"parameter '{key}' must be a boolean, a whole number, a string or null")
    return given


def from_base64(key: str, value: Any) -> bytes:
    """The bytes of the parameter `key`."""
    if not isinstance(value, str):
        raise InvalidArgument(f"parameter '{key}' must be a string: the file's bytes in base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"parameter '{key}' is not base64: {error}") from None


def texts_of(key: str, value: Any) -> list[str] | None:
    """The values of the trace setting `key`; None: back to the default."""
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in values):
        raise InvalidArgument(f"trace setting '{key}' must be a string, a list of strings or null")
    return [str(one) for one in values]


def plain(message: Any) -> dict[str, Any]:
    """A protobuf message as JSON: every field, by its own name, 64-bit integers as numbers (as Triton does)."""
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            fields[field.name] = {str(k): plain(v) if hasattr(v, "DESCRIPTOR") else v for k, v in value.items()}
        elif field.is_repeated:
            fields[field.name] = [_value(field, one) for one in value]
        elif (kind is None and field.containing_oneof is None) or message.HasField(field.name):
            fields[field.name] = _value(field, value)
    return fields


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
