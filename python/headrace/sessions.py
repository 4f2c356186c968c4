"""What the core is told of a model's sessions, and what they tell of tensors: types only."""

from typing import TypedDict

__all__ = ["DeviceOptions", "ProviderOptions", "SessionOptions", "StatedTensors", "TensorInfo"]


class TensorInfo(TypedDict):
    name: str
    datatype: str
    shape: list[int]  # as the model states it, batch dimension included; -1 where any size goes
    optional: bool


class ProviderOptions(TypedDict):
    """A device's way into the runtime, with the runtime's own options."""

    name: str  # "cuda", "tensorrt"
    options: dict[str, str]
    asked_for: bool  # False: a default, not missed where the runtime was built without it


class DeviceOptions(TypedDict):
    """One of the devices on which a model is to have a session."""

    providers: list[ProviderOptions]  # none: the CPU
    max_lanes: int  # of the device's, that may run it at one time; 0: the core's choice


class StatedTensors(TypedDict):
    """The signature of a file that does not say it of itself."""

    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class SessionOptions(TypedDict, total=False):
    intra_op_threads: int
    inter_op_threads: int
    parallel_execution: bool
    graph_optimization_level: int
    memory_arena: bool
    memory_pattern: bool
    config_entries: dict[str, str]
    providers: list[ProviderOptions]  # best first; the CPU is always the last
    strict_providers: bool
    stated: StatedTensors  # of a TensorRT plan
    devices: list[DeviceOptions]  # with a session each, in order of preference; none: one, by providers
    share_weights: bool  # with other sessions that have equal ones
