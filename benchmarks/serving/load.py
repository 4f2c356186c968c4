"""h2load as a measuring instrument: one run, its rate, its latencies, its own CPU, and the server's CPU meanwhile."""

import os
import re
import resource
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
_TICKS = os.sysconf("SC_CLK_TCK")


class LoadFailed(Exception):
    """h2load failed, or not every request succeeded."""


@dataclass(frozen=True)
class Load:
    """`connections` x `streams` requests in flight, `requests` in all; open loop at `rate` requests/s if it is set."""

    connections: int
    streams: int
    requests: int
    rate: float | None = None

    def __str__(self) -> str:
        return f"{self.connections} x {self.streams}"


@dataclass(frozen=True)
class Result:
    """What one run showed. Rates in requests/s, CPU in microseconds a request (user + system), latencies in ms."""

    requests: int
    rate: float
    server_cpu_us: float
    load_cpu_us: float
    p50_ms: float
    p99_ms: float
    steady_rate: float  # while all of its requests were in flight: without the start and the end of the run


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie."""
    return values[min(len(values) - 1, int(share * len(values)))]


def run(address: str, payload: Path, load: Load, server_pid: int) -> Result:
    """One run of h2load. Its view of success is HTTP's alone: the caller compares counts with the server's."""
    with tempfile.NamedTemporaryFile(prefix="h2load-", suffix=".tsv") as log:
        command = [
            *("h2load", "--requests", str(load.requests), "--clients", str(load.connections)),
            *("--max-concurrent-streams", str(load.streams), "--data", str(payload), "--log-file", log.name),
            *("--header", "content-type: application/grpc", "--header", "te: trailers"),
            f"http://{address}{MODEL_INFER}",
        ]
        if load.rate is not None:
            command[1:1] = ["--rps", f"{load.rate / load.connections:.3f}"]
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        before = cpu_seconds(server_pid)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        server = cpu_seconds(server_pid) - before
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        rate = re.search(r"finished in .*?, ([0-9.]+) req/s", done.stdout)
        succeeded = re.search(r"(\d+) succeeded", done.stdout)
        if done.returncode != 0 or rate is None or succeeded is None or int(succeeded[1]) != load.requests:
            raise LoadFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        # Start time, status, duration, in microseconds.
        rows = [tuple(map(int, line.split(b"\t"))) for line in log if line.strip()]
    latencies = sorted(duration / 1000 for _, _, duration in rows)
    used = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime
    return Result(
        requests=load.requests,
        rate=float(rate[1]),
        server_cpu_us=server / load.requests * 1e6,
        load_cpu_us=used / load.requests * 1e6,
        p50_ms=percentile(latencies, 0.50),
        p99_ms=percentile(latencies, 0.99),
        steady_rate=steady_rate(
            sorted(start + duration for start, _, duration in rows), load.connections * load.streams
        ),
    )


def steady_rate(ends: Sequence[int], in_flight: int) -> float:
    """Answers a second from the one that made the pipeline full to the one after which it ran empty. `ends`: sorted,
    in microseconds. Answers of one batch come together, so the first and the last batch count by half."""
    first, last = in_flight, len(ends) - in_flight
    if last - first < in_flight:
        return len(ends) / (ends[-1] - ends[0]) * 1e6 if ends[-1] > ends[0] else 0.0
    return (last - first) / (ends[last] - ends[first]) * 1e6


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """`median (min..max)`."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"
