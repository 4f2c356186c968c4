"""What a version runs before it takes traffic: config.pbtxt's `model_warmup`, its files read, or sizes by default."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.datatypes import datatype
from headrace.errors import InvalidArgument
from headrace.model_config import ModelSettings

if TYPE_CHECKING:
    from headrace.engine import WarmupInput, WarmupOptions

__all__ = ["read"]

_FOLDER = "warmup"  # of the model's folder: where input_data_file lies
_MOST_RUNS = 1000
_MAX_BYTES = 64 << 20


def read(settings: ModelSettings, folder: Path) -> "WarmupOptions":
    """The samples of the model in `folder`, files included; with none, the core makes up its own. InvalidArgument says
    what is wrong with one. Blocks: it reads files."""
    label = f"config.pbtxt of model '{settings.name}': model_warmup"
    samples = settings.message.model_warmup
    for sample in samples:
        if sample.count > _MOST_RUNS:
            raise InvalidArgument(f"{label} '{sample.name}': count is {sample.count}: it must be 0 to {_MOST_RUNS}.")
    return {
        "made_up": not samples,
        "samples": [
            {
                "name": sample.name,
                "batch_size": max(1, sample.batch_size),
                "count": max(1, sample.count),
                "inputs": [
                    _input(name, value, folder, f"{label} '{sample.name}': input '{name}'")
                    for name, value in sorted(sample.inputs.items())
                ],
            }
            for sample in samples
        ],
    }


def _input(name: str, value: Any, folder: Path, label: str) -> "WarmupInput":
    if not value.data_type:
        raise InvalidArgument(f"{label} has no data_type.")
    if any(dim < 0 for dim in value.dims):
        raise InvalidArgument(f"{label} has dims {list(value.dims)}: each must be a size, 0 or more.")
    kind = value.WhichOneof("input_data_type")
    if kind is None:
        raise InvalidArgument(f"{label} has no data: give zero_data, random_data or input_data_file.")
    row: WarmupInput = {"name": name, "datatype": datatype(value.data_type), "dims": list(value.dims), "data": "zero"}
    if kind == "random_data":
        row["data"] = "random"
    elif kind == "input_data_file":
        row["data"] = "given"
        row["bytes"] = _file(value.input_data_file, folder, label)
    return row


def _file(name: str, folder: Path, label: str) -> bytes:
    inside = folder / _FOLDER
    path = inside / name
    if not path.resolve().is_relative_to(folder.resolve() / _FOLDER):
        raise InvalidArgument(f"{label}: input_data_file '{name}' leads out of {inside}: put a copy in there.")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidArgument(f"{label}: {path} is over 64 MiB: a sample is one row.")
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{label}: {path} cannot be read: {error.strerror}.") from None
