"""The core's plain counters, as Python sees them."""

from typing import TypedDict

__all__ = [
    "BatchStats",
    "DurationStats",
    "LoaderStats",
    "ModelStats",
    "PoolStats",
    "ResponseStats",
    "Snapshot",
]


class DurationStats(TypedDict):
    count: int
    ns: int


class BatchStats(TypedDict):
    batch_size: int
    compute_input: DurationStats
    compute_infer: DurationStats
    compute_output: DurationStats


class ResponseStats(TypedDict):
    """Of the answers that had one number in their requests."""

    compute_infer: DurationStats
    compute_output: DurationStats
    success: DurationStats
    fail: DurationStats
    empty_response: DurationStats  # the request ended without one
    cancel: DurationStats  # nobody waited for it any more


class ModelStats(TypedDict):
    """Counters since the load. Durations are cumulative nanoseconds over requests (Triton's meaning)."""

    name: str
    version: int
    inference_count: int  # rows (requests where the model is not batched)
    execution_count: int  # runs of the runtime
    last_inference_ms: int  # milliseconds since the epoch; 0: never
    success: DurationStats
    fail: DurationStats
    cancel: DurationStats
    reject: DurationStats  # refused before it was queued: bad input, queue full
    queue: DurationStats
    compute_input: DurationStats
    compute_infer: DurationStats
    compute_output: DurationStats
    batch_stats: list[BatchStats]
    response_stats: list[ResponseStats]  # by number, at most 100: the last has all that follow too
    queued: int  # now
    queued_bytes: int  # now
    running: int  # tickets in a batch now
    asleep: bool  # its session is not in memory; the next request loads it
    footprint_bytes: int  # of its session, when it is loaded
    peak_bytes: int  # while it loads
    loads: int
    evictions: int
    load_ns: int  # of the last load
    load_ns_sum: int


class LoaderStats(TypedDict):
    """Versions in memory and asleep, and the bytes that they are taken to need."""

    budget: int
    bytes: int  # of what is loaded, and the peaks of what loads
    bytes_peak: int
    resident: int
    asleep: int
    waiting: int  # loads that wait for their turn or for room
    loading: int
    loads: int
    failures: int
    evictions: int
    misses: int  # requests that found their version asleep


class PoolStats(TypedDict):
    cap: int
    bytes_in_use: int
    bytes_in_use_peak: int
    bytes_retained: int
    bytes_waste: int
    blocks_in_use: int
    allocations: int
    reuses: int
    refusals: int


class Snapshot(TypedDict):
    pool: PoolStats
    staging: dict[str, PoolStats]  # page-locked memory, by device: "gpu 0"; none where no model runs on a GPU
    loader: LoaderStats
    inflight_bytes: int
    inflight_bytes_peak: int
    tickets: int  # submitted and not yet handed back
    lanes: int
    lanes_busy: int
    models: list[ModelStats]
