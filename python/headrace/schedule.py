"""What the core tells of its scheduler: types only."""

from typing import Any, TypedDict

__all__ = ["Batches", "ClosedBatch", "CostCurve", "CostPoint", "LaneCounts", "Schedule"]


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


class Schedule(TypedDict):
    """What the scheduler has learnt of a model, and did."""

    learning: bool
    policy: dict[str, Any]
    lanes: LaneCounts
    compute_threads: int  # of one run
    cost_curves: list[CostCurve]  # used last first
    batches: Batches
    refused_by_prediction: int
