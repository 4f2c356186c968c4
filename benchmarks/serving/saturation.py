"""Served throughput at saturation against the best that a hand-tuned loop over `OrtRun` reaches.

For each network a grid is measured first: compute threads of a session x instances (threads that call it) x rows of a
batch, all with numbers that lie ready. The three best cells are measured again and the best of these is the loop to
beat. Then windows of the loop and of `headrace serve` with no settings (h2load over loopback, one-row requests) take
turns, A B B A. The server is given no hint of what the grid found.

    python benchmarks/serving/saturation.py [NETWORK...] [--windows 6] [--seconds 5] [--report FILE]

With `--device cuda` both sides run on GPU 0, and the grid is instances x rows of larger batches; it ends with an error
where that cannot be.
"""

import argparse
import itertools
import os
import statistics
import struct
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks" / "models"), str(Path(__file__).parent)]

from load import MODEL_INFER, Load, run, spread  # noqa: E402
from networks import NETWORKS, Network  # noqa: E402
from unary import STATISTICS, Server, machine  # noqa: E402

from headrace import _proto  # noqa: E402
from server_process import ServerProcess  # noqa: E402

CORES = len(os.sched_getaffinity(0))
BATCHES = (1, 2, 4, 8)
IN_FLIGHT = 8 * CORES
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DATATYPES = {"float32": "FP32", "int64": "INT64"}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, order=True)
class Cell:
    """One way to run a loop."""

    threads: int  # of one run
    instances: int
    rows: int
    spins: bool = False  # an idle compute thread waits by turning round, as the runtime does by default

    def __str__(self) -> str:
        return f"{self.threads} x {self.instances}, {self.rows} rows" + (", spinning" if self.spins else "")


def cells(device: str) -> list[Cell]:
    """The grid: powers of two up to the cores, as many instances as fit, or twice that; one thread on a GPU."""
    if device == "cuda":
        return [Cell(1, instances, rows) for instances, rows in itertools.product((1, 2, 4), (1, 4, 8, 16, 32))]
    counts = [1 << shift for shift in range(CORES.bit_length()) if 1 << shift <= CORES]
    grid = []
    for threads, instances, rows in itertools.product(counts, counts, BATCHES):
        if threads * instances <= 2 * CORES:
            grid.append(Cell(threads, instances, rows))
            if threads > 1:
                grid.append(Cell(threads, instances, rows, spins=True))
    return grid


class Loop:
    """Sessions of one model file, one for each number of threads, and the loop over them."""

    def __init__(self, file: Path, network: Network, device: str) -> None:
        self._file = file
        self._provider = PROVIDERS[device]
        self._row = network.row()
        self._sessions: dict[tuple[int, bool], onnxruntime.InferenceSession] = {}

    def session(self, cell: Cell) -> onnxruntime.InferenceSession:
        """The session that serves this cell."""
        key = cell.threads, cell.spins
        if key not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = cell.threads
            options.add_session_config_entry("session.intra_op.allow_spinning", str(int(cell.spins)))
            self._sessions[key] = onnxruntime.InferenceSession(self._file, options, providers=[self._provider])
        return self._sessions[key]

    def keep(self, cell: Cell) -> None:
        """Gives the other cells' sessions up."""
        self._sessions = {(cell.threads, cell.spins): self.session(cell)}

    def answer(self, cell: Cell) -> Array:
        """The answer to one row."""
        answer: Array = self.session(cell).run(None, self._row)[0]
        return answer

    def rate(self, cell: Cell, seconds: float, runs: int = 2) -> float:
        """Rows a second: `instances` threads, each for `seconds` and at least `runs` runs; whole runs only."""
        session = self.session(cell)
        feed = {name: np.repeat(row, cell.rows, 0) for name, row in self._row.items()}
        session.run(None, feed)
        rates = [0.0] * cell.instances
        barrier = threading.Barrier(cell.instances)

        def work(instance: int) -> None:
            barrier.wait()
            start = now = time.perf_counter()
            done = 0
            while now - start < seconds or done < runs:
                session.run(None, feed)
                done += 1
                now = time.perf_counter()
            rates[instance] = done * cell.rows / (now - start)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(cell.instances)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(rates)


@dataclass(frozen=True)
class Served:
    """What one window of the server showed."""

    rate: float
    mean_batch: float


class Client:
    """h2load against a server of one model."""

    def __init__(self, server: Server, model: str, network: Network, folder: Path) -> None:
        self.server = server
        self.model = model
        request = _proto.ModelInferRequest(model_name=model)
        for name, row in network.row().items():
            request.inputs.add(name=name, datatype=DATATYPES[row.dtype.name], shape=row.shape)
            request.raw_input_contents.append(row.tobytes())
        self.request: bytes = request.SerializeToString()
        self.payload = folder / f"{model}.bin"
        self.payload.write_bytes(b"\0" + struct.pack(">I", len(self.request)) + self.request)

    def counts(self) -> tuple[int, int]:
        """Rows and runs since the start."""
        request = _proto.ModelStatisticsRequest(name=self.model).SerializeToString()
        rows = _proto.ModelStatisticsResponse.FromString(self.server.call(STATISTICS, request)).model_stats
        return sum(row.inference_count for row in rows), sum(row.execution_count for row in rows)

    def answer(self) -> Array:
        """The answer to one row."""
        response = _proto.ModelInferResponse.FromString(self.server.call(MODEL_INFER, self.request))
        return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)

    def window(self, requests: int) -> Served:
        """The rate while all clients are busy: from the first answers to the last request that was sent."""
        rows, runs = self.counts()
        result = run(self.server.address, self.payload, Load(2, IN_FLIGHT // 2, requests), self.server.pid)
        rows_after, runs_after = self.counts()
        if rows_after - rows != requests:
            raise SystemExit(f"{rows_after - rows} of {requests} requests were answered with success")
        return Served(result.steady_rate, (rows_after - rows) / (runs_after - runs))


def measure(model: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """One network: its grid, its windows, its part of the report."""
    network = NETWORKS[model]
    version = folder / model / model / "1"
    version.mkdir(parents=True)
    file = version / "model.onnx"
    onnx.save(network.build(), file)
    loop = Loop(file, network, options.device)
    grid = {cell: loop.rate(cell, options.grid_seconds) for cell in cells(options.device)}
    again = sorted(grid, key=grid.__getitem__)[-3:]
    second = {cell: loop.rate(cell, options.seconds / 2) for cell in again}
    best = max(second, key=second.__getitem__)
    loop.keep(best)
    loops: list[float] = []
    served: list[Served] = []
    device = () if options.device == "cpu" else ("--device", options.device, "--strict-device")
    with ServerProcess(folder / model, *device, *options.server_arguments) as process:
        client = Client(Server(process.grpc, process.process.pid, lambda _: 0), model, network, folder)
        np.testing.assert_allclose(client.answer(), loop.answer(best), rtol=1e-3, atol=1e-5)
        requests = max(4 * IN_FLIGHT, int(second[best] * options.seconds))
        client.window(max(2 * IN_FLIGHT, requests // 4))
        for window in range(options.windows):
            for side in ("served", "loop") if window % 2 == 0 else ("loop", "served"):
                if side == "served":
                    served.append(client.window(requests))
                else:
                    loops.append(loop.rate(best, options.seconds))
    ratios = [a.rate / b for a, b in zip(served, loops, strict=True)]
    batches = sorted({cell.rows for cell in grid})
    lines = [
        f"## {model}: {network.text}",
        "",
        "Rows/s of a loop, threads a run x instances; the columns are rows of a batch:",
        "",
        "| threads x instances | " + " | ".join(map(str, batches)) + " |",
        "|---" * (len(batches) + 1) + "|",
    ]
    for head in dict.fromkeys(replace(cell, rows=1) for cell in grid):
        name = f"{head.threads} x {head.instances}" + (", spinning" if head.spins else "")
        lines.append(f"| {name} | " + " | ".join(f"{grid[replace(head, rows=rows)]:.2f}" for rows in batches) + " |")
    lines += [
        "",
        "Measured again: " + "; ".join(f"{cell}: {rate:.2f}" for cell, rate in second.items()) + ".",
        "",
        "| | rows/s | rows a run |",
        "|---|---|---|",
        f"| loop, {best} | {spread(loops)} | {best.rows} |",
        f"| served, {IN_FLIGHT} in flight | {spread([s.rate for s in served])} "
        f"| {statistics.median(s.mean_batch for s in served):.1f} |",
        "",
        f"Served over the loop: {spread(ratios, '.3f')}; median **{statistics.median(ratios):.3f}**.",
        "",
    ]
    print("\n".join(lines), flush=True)
    return lines


def main() -> None:
    """Measures, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all if none")
    parser.add_argument("--windows", type=int, default=6, help="of each side")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a window")
    parser.add_argument("--grid-seconds", type=float, default=0.6, help="of a cell of the grid, two runs at least")
    parser.add_argument("--device", choices=PROVIDERS, default="cpu", help="of both sides")
    parser.add_argument("--server-arguments", nargs=argparse.REMAINDER, default=[], help="given to headrace serve")
    parser.add_argument("--report", type=Path, help="also write the report here")
    options = parser.parse_args()
    if unknown := set(options.networks) - set(NETWORKS):
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    if PROVIDERS[options.device] not in onnxruntime.get_available_providers():
        parser.error(f"--device {options.device}: this onnxruntime is a build without it; pip install onnxruntime-gpu")
    body: list[str] = []
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        for model in options.networks or NETWORKS:
            body += measure(model, options, Path(name))
    head = [
        machine(),
        "",
        f"`python benchmarks/serving/saturation.py {' '.join(sys.argv[1:])}`: {options.windows} windows of "
        f"{options.seconds:g} s of each side, A B B A; median (min..max).",
        "",
    ]
    text = "\n".join(head + body)
    if options.report is not None:
        options.report.write_text(text)
    print("\n".join(head))


if __name__ == "__main__":
    main()
