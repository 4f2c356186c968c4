"""Open-loop load over gRPC: requests leave at the times they should, whatever becomes of those before them."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
from load import MODEL_INFER

from headrace import _proto


@dataclass(frozen=True)
class Arrival:
    """When (seconds from the start), and for which model."""

    at: float
    model: str


@dataclass(frozen=True)
class Outcome:
    """Of one request: its answer came `latency` seconds after the time at which it should have left."""

    arrival: Arrival
    latency: float
    code: grpc.StatusCode

    @property
    def ok(self) -> bool:
        """It was answered, and not refused."""
        return self.code is grpc.StatusCode.OK


def poisson(rates: Mapping[str, float], seconds: float, seed: int) -> list[Arrival]:
    """Independent Poisson arrivals for each model, requests/s, in order of time."""
    values = np.random.default_rng(seed)
    arrivals = []
    for model, rate in rates.items():
        count = values.poisson(rate * seconds)
        arrivals += [Arrival(float(at), model) for at in values.uniform(0, seconds, count)]
    return sorted(arrivals, key=lambda arrival: arrival.at)


def message(model: str, row: Mapping[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]) -> bytes:
    """One row as a ModelInferRequest."""
    words = {"float32": "FP32", "int64": "INT64"}
    request = _proto.ModelInferRequest(model_name=model)
    for name, values in row.items():
        request.inputs.add(name=name, datatype=words[str(values.dtype)], shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
    serialised: bytes = request.SerializeToString()
    return serialised


def offer(
    address: str, arrivals: Sequence[Arrival], messages: Mapping[str, bytes], deadlines: Mapping[str, float]
) -> list[Outcome]:
    """Sends every request at its time, with its model's deadline (seconds) counted from then."""
    outcomes: list[Outcome] = []
    lock = threading.Lock()
    left = threading.Semaphore(0)
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(MODEL_INFER)
        began = time.perf_counter() + 0.05
        for arrival in arrivals:
            due = began + arrival.at
            wait = due - time.perf_counter()
            if wait > 0:
                time.sleep(wait)

            def ended(future: grpc.Future, arrival: Arrival = arrival, due: float = due) -> None:
                outcome = Outcome(arrival, time.perf_counter() - due, future.code())
                with lock:
                    outcomes.append(outcome)
                left.release()

            remaining = due + deadlines[arrival.model] - time.perf_counter()
            call.future(messages[arrival.model], timeout=max(remaining, 0.001)).add_done_callback(ended)
        for _ in arrivals:
            left.acquire()
    return outcomes
