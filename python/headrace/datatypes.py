"""Element types as config.pbtxt names them, and as the protocol does."""

from headrace import _proto

__all__ = ["data_type_of", "datatype"]


def datatype(data_type: int) -> str:
    """The protocol's word for config.pbtxt's: TYPE_STRING is BYTES, otherwise the names agree."""
    name = str(_proto.DataType(data_type).name).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def data_type_of(datatype: str) -> int:
    """config.pbtxt's number for the protocol's word."""
    return int(_proto.DataType["TYPE_STRING" if datatype == "BYTES" else "TYPE_" + datatype])
