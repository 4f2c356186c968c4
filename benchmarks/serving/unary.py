"""Unary ModelInfer, served for real, against a `grpc.aio` handler that does no work: rates, CPU a request, latencies.

Each pair of runs is interleaved (A B, B A, ...), and a ratio is the median of the pairs' ratios. Every rate is checked
against the server's own success count, and a sample of answers against NumPy's.

    python benchmarks/serving/unary.py [--pairs 5] [--scale 1.0] [--report FILE]
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(Path(__file__).parent)]

from load import MODEL_INFER, Load, Result, run, spread  # noqa: E402

from headrace import _proto  # noqa: E402
from server_process import ServerProcess  # noqa: E402

STATISTICS = "/inference.GRPCInferenceService/ModelStatistics"


@dataclass(frozen=True)
class Case:
    """One model and its request, and what the twin answers."""

    model: str
    inputs: dict[str, np.ndarray[Any, Any]]
    expected: Callable[[dict[str, np.ndarray[Any, Any]]], dict[str, np.ndarray[Any, Any]]]
    twin_answer: int  # bytes; 0: the request's own

    def request(self) -> bytes:
        """The serialised ModelInferRequest."""
        request = _proto.ModelInferRequest(model_name=self.model)
        names = {"int32": "INT32", "float32": "FP32"}
        for name, array in self.inputs.items():
            request.inputs.add(name=name, datatype=names[array.dtype.name], shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        serialised: bytes = request.SerializeToString()
        return serialised


def add_sub(inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What benchmarks/models/add_sub.onnx computes."""
    return {"sum": inputs["a"] + inputs["b"], "difference": inputs["a"] - inputs["b"]}


def image(inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What benchmarks/models/image.onnx computes: the mean of each channel, repeated to 1,000 scores."""
    return {"scores": inputs["image"].mean(axis=(2, 3)) @ np.full((3, 1000), 1 / 3, np.float32)}


SMALL = Case("add_sub", {n: np.arange(16, dtype=np.int32).reshape(1, 16) for n in "ab"}, add_sub, 0)
LARGE = Case("image", {"image": np.linspace(0, 1, 150528, dtype=np.float32).reshape(1, 3, 224, 224)}, image, 4096)


class Server:
    """Either side: an address, a pid, and the count of what it answered well."""

    def __init__(self, address: str, pid: int, count: Callable[["Server"], int]) -> None:
        self.address = address
        self.pid = pid
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])
        self._count = count

    def call(self, path: str, message: bytes) -> bytes:
        """One unary call with raw bytes."""
        answer: bytes = self.channel.unary_unary(path)(message, timeout=60)
        return answer

    def count(self) -> int:
        """How many requests it has answered well."""
        return self._count(self)

    def measure(self, payload: Path, load: Load) -> Result:
        """One run, its count checked."""
        before = self.count()
        result = run(self.address, payload, load, self.pid)
        answered = self.count() - before
        if answered != load.requests:
            raise SystemExit(f"{self.address} answered {answered} of {load.requests} requests with success")
        return result


@contextlib.contextmanager
def headrace(repository: Path, case: Case, *arguments: str) -> Iterator[Server]:
    """A `headrace serve` that serves the case's model."""

    def count(server: Server) -> int:
        request = _proto.ModelStatisticsRequest(name=case.model).SerializeToString()
        answer = _proto.ModelStatisticsResponse.FromString(server.call(STATISTICS, request))
        return sum(row.inference_stats.success.count for row in answer.model_stats)

    with ServerProcess(repository, *arguments) as process:
        yield Server(process.grpc, process.process.pid, count)


@contextlib.contextmanager
def twin(case: Case) -> Iterator[Server]:
    """The grpc.aio handler."""
    command = [sys.executable, str(Path(__file__).with_name("grpc_aio_twin.py")), "--answer", str(case.twin_answer)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            yield Server(address, process.pid, lambda s: int(struct.unpack("<Q", s.call("/bench/Count", b""))[0]))
        finally:
            process.kill()


def check_answers(server: Server, case: Case) -> None:
    """A sample of answers is right, with other numbers each time."""
    generator = np.random.default_rng(7)
    for _ in range(10):
        inputs = {
            name: generator.integers(-1000, 1000, array.shape).astype(array.dtype)
            for name, array in case.inputs.items()
        }
        answer = server.call(MODEL_INFER, replace(case, inputs=inputs).request())
        response = _proto.ModelInferResponse.FromString(answer)
        expected = case.expected(inputs)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
            want = expected.pop(output.name)
            np.testing.assert_allclose(np.frombuffer(raw, want.dtype).reshape(want.shape), want, rtol=1e-3, atol=1e-2)
        assert not expected, f"outputs are missing: {expected}"


@dataclass
class Pairs:
    """The runs of one comparison, in pairs."""

    case: Case
    load: Load
    ours: list[Result] = field(default_factory=list)
    theirs: list[Result] = field(default_factory=list)

    def ratios(self, figure: Callable[[Result], float]) -> list[float]:
        """Ours over theirs, pair by pair."""
        return [figure(a) / figure(b) for a, b in zip(self.ours, self.theirs, strict=True)]

    def row(self) -> str:
        """A line of the report's table."""
        cells = [
            f"{self.case.model}, {self.load}",
            *(spread([r.rate for r in runs], ",.0f") for runs in (self.ours, self.theirs)),
            spread(self.ratios(lambda r: r.rate)),
            *(spread([r.server_cpu_us for r in runs], ".1f") for runs in (self.ours, self.theirs)),
            spread(self.ratios(lambda r: r.server_cpu_us), ".3f"),
            " / ".join(spread([r.load_cpu_us for r in runs], ".0f") for runs in (self.ours, self.theirs)),
        ]
        return "| " + " | ".join(cells) + " |"


def compare(case: Case, loads: list[tuple[Load, Load]], pairs: int, folder: Path) -> list[Pairs]:
    """Interleaved runs of both sides, for each pair of loads (ours, theirs: slower, so given fewer requests)."""
    payload = folder / f"{case.model}.bin"
    request = case.request()
    payload.write_bytes(b"\0" + struct.pack(">I", len(request)) + request)
    repository = folder / case.model
    version = repository / case.model / "1"
    version.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "models" / f"{case.model}.onnx", version / "model.onnx")
    rows = []
    with headrace(repository, case) as ours, twin(case) as theirs:
        check_answers(ours, case)
        for our_load, their_load in loads:
            rows.append(row := Pairs(case, our_load))
            for server, load in ((ours, our_load), (theirs, their_load)):  # a warm-up, not counted
                server.measure(
                    payload, replace(load, requests=max(load.requests // 5, load.connections * load.streams))
                )
            for pair in range(pairs):
                for side in ("ours", "theirs") if pair % 2 == 0 else ("theirs", "ours"):
                    if side == "ours":
                        row.ours.append(ours.measure(payload, our_load))
                    else:
                        row.theirs.append(theirs.measure(payload, their_load))
            print(row.row(), flush=True)
        peak = statistics.median(r.rate for r in rows[0].ours)
        their_peak = statistics.median(r.rate for r in rows[0].theirs)
        half = [
            (server.measure(payload, replace(load, requests=int(rate * 2.5), rate=rate / 2)), rate / 2)
            for server, load, rate in ((ours, loads[0][0], peak), (theirs, loads[0][1], their_peak))
        ]
        for name, (result, offered) in zip(("headrace", "grpc.aio"), half, strict=True):
            text = f"open loop at half of the peak, {case.model}, {name}: offered {offered:,.0f}/s, "
            text += f"p50 {result.p50_ms:.2f} ms, p99 {result.p99_ms:.2f} ms"
            print(text, flush=True)
            OPEN_LOOP.append(text)
        check_answers(ours, case)
    return rows


OPEN_LOOP: list[str] = []
HEAD = (
    "| model, connections x streams | headrace req/s | grpc.aio req/s | ratio "
    "| headrace CPU us/req | grpc.aio CPU us/req | CPU ratio | load generator CPU us/req (ours / theirs) |\n"
    "|---|---|---|---|---|---|---|---|"
)


def processor() -> str:
    """The processor's name, as Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def machine() -> str:
    """The day, the machine and the versions, for the head of a report."""
    names = ("headrace", "onnxruntime", "grpcio", "uvloop")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return (
        f"{datetime.date.today().isoformat()}, {processor()}, {os.cpu_count()} cores (shared), Python "
        f"{platform.python_version()}, {versions}. Load average at the end: {os.getloadavg()[0]:.1f}."
    )


def report(rows: list[Pairs], pairs: int) -> str:
    """The report's text."""
    lines = [
        machine(),
        "",
        f"`python benchmarks/serving/unary.py --pairs {pairs}`; median (min..max) of {pairs} interleaved pairs.",
        "",
        HEAD,
        *(row.row() for row in rows),
        "",
        *(f"- {text}" for text in OPEN_LOOP),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs both comparisons and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of requests of each run")
    parser.add_argument("--report", type=Path, help="also write the report here")
    options = parser.parse_args()

    def both(connections: int, streams: int, ours: int, theirs: int) -> tuple[Load, Load]:
        return (
            Load(connections, streams, int(ours * options.scale)),
            Load(connections, streams, int(theirs * options.scale)),
        )

    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        rows = compare(SMALL, [both(4, 32, 200_000, 12_000), both(1, 1, 20_000, 5_000)], options.pairs, Path(folder))
        rows += compare(LARGE, [both(4, 4, 4_000, 2_500)], options.pairs, Path(folder))
    text = report(rows, options.pairs)
    if options.report is not None:
        options.report.write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    main()
