"""What the core's scheduler is told of a model, and what it tells: types only."""

from collections.abc import Mapping
from typing import Any, TypedDict

from headrace.resources import Resource

__all__ = [
    "Batches",
    "BatchingOptions",
    "ClosedBatch",
    "CoreCounts",
    "CostCurve",
    "CostPoint",
    "DeviceSchedule",
    "LaneCounts",
    "LevelQueueOptions",
    "ResourceCounts",
    "Schedule",
]


class LevelQueueOptions(TypedDict, total=False):
    """What priority_queue_policy says of one level."""

    delay_late: bool
    default_timeout_ns: int
    allow_timeout_override: bool
    max_queue_size: int  # 0 is no bound but the model's


class BatchingOptions(TypedDict, total=False):
    """What config.pbtxt says. With `decided` false the core's probe decides whether the model can be batched, and then
    `max_batch_size` and `dynamic_batching` are its defaults for the case that it can."""

    decided: bool
    max_batch_size: int
    dynamic_batching: bool
    preferred_batch_sizes: list[int]
    max_queue_delay_ns: int
    max_queue_size: int
    max_queue_bytes: int
    preserve_ordering: bool  # the answers of one stream go out in the order of its requests
    default_timeout_ns: int  # of a request, from its last byte on; 0 is none
    allow_timeout_override: bool  # a request's own `timeout` may shorten it
    max_lanes: int  # instance_group.count: lanes that may run the model at one time; 0 is all
    weight: float  # of lane time, where models without targets compete
    resources: list[Resource]  # instance_group.rate_limiter: what a batch needs while it runs
    delay_late: bool  # past its timeout a request goes behind the others, and is not ended
    latency_objective_ns: int  # from a request's last byte to its answer; 0 is none
    priority_levels: int  # 0 is none
    default_priority_level: int  # of requests that name none
    level_queues: Mapping[int, LevelQueueOptions]  # other levels have what is said above
    decoupled: bool  # a request may have any number of answers, if the backend can
    ragged_inputs: list[str]  # allow_ragged_batch: may be padded, if a probe at load finds the same answers


class CostPoint(TypedDict):
    rows: float
    us: float  # as fitted
    runs: int  # that are remembered


class CostCurve(TypedDict):
    device: int  # kind of lane
    shape: str  # hash of what the inputs of a batch agree in
    runs: int
    best_rows: int  # a bigger batch does not pay
    spread: float  # 99 of 100 runs take at most so many times the typical time
    points: list[CostPoint]


class ClosedBatch(TypedDict):
    number: int
    closed: str  # the reason
    lane: int
    requests: int
    rows: int
    waited_us: int  # by its oldest request
    predicted_us: int | None
    took_us: int
    age_us: int


class Batches(TypedDict):
    count: int
    closed: dict[str, int]  # reason -> batches
    last: list[ClosedBatch]  # newest first


class LaneCounts(TypedDict):
    server: int
    most: int  # that may run the model at one time
    running: int


class CoreCounts(TypedDict):
    server: int
    of_a_batch: int  # kept busy by one of the model
    used: int  # by batches of all models


class ResourceCounts(TypedDict):
    name: str
    device: int | None  # None: the server has it once
    server: int
    of_a_batch: int
    used: int  # by batches of all models


class DeviceSchedule(TypedDict):
    """One of the devices that have a session of the model: what was learnt and done there."""

    device: str  # "cpu", "gpu 0"
    provider: str
    note: str  # why it is not the one that was asked for
    lanes: LaneCounts
    compute_threads: int
    waiting: int  # requests
    running: int
    cost_curves: list[CostCurve]
    batches: Batches
    refused_by_prediction: int


class Schedule(TypedDict):
    """What the scheduler has learnt of a model, and did."""

    learning: bool
    policy: dict[str, Any]
    lanes: LaneCounts
    weight: float  # of lane time: parameters.weight over rate_limiter.priority
    compute_threads: int  # of one run
    cores: CoreCounts
    resources: list[ResourceCounts]  # that a batch needs
    cost_curves: list[CostCurve]  # used last first
    batches: Batches
    refused_by_prediction: int
    devices: list[DeviceSchedule]  # in order of preference; the fields before are those of the first
