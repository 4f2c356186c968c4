"""Memory: what a load costs those who are served, what comes back, and more models than there is room for.

    python benchmarks/serving/memory.py busy     p99 of a small model while a 100 MB model loads and unloads in a loop
    python benchmarks/serving/memory.py cycles   resident set over 1,000 cycles of load, inference and unload
    python benchmarks/serving/memory.py zipf     300 models in a budget that holds 30, Zipf traffic

Models are made here, with seeded weights. `--report FILE` appends what is printed.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "scripts")]

from unary import machine  # noqa: E402

from server_process import ServerProcess  # noqa: E402

MIB = 1 << 20


def chain(folder: Path, name: str, width: int, layers: int, seed: int) -> None:
    """`layers` matrix products of FP32[N, width]: 4 * width * width * layers bytes of weights."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], [], "x"
    for i in range(layers):
        weights.append(
            numpy_helper.from_array((rng.standard_normal((width, width)) / width).astype(np.float32), f"w{i}")
        )
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"h{i}"]))
        last = f"h{i}"
    shape: list[str | int | None] = ["batch", width]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)],
        weights,
    )
    target = folder / name / "1"
    target.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), target / "model.onnx"
    )


def ask(client: Any, name: str, width: int) -> None:
    x = triton.InferInput("x", [1, width], "FP32")
    x.set_data_from_numpy(np.ones((1, width), np.float32))
    client.infer(name, [x])


def resident(server: ServerProcess) -> float:
    """MiB."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / MIB


def p99(times: list[float]) -> float:
    return sorted(times)[max(0, int(len(times) * 0.99) - 1)] * 1e3


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}..{max(values):.2f})"


def busy(folder: Path, windows: int, seconds: float) -> list[str]:
    """Quiet and busy windows in turn; one caller, closed loop."""
    chain(folder, "small", 64, 2, 1)
    chain(folder, "large", 1280, 16, 2)
    flags = ("--model-control-mode", "explicit", "--load-model", "small")
    quiet, loud, ratios, loads = list[float](), list[float](), list[float](), 0
    with ServerProcess(folder, *flags) as server, triton.InferenceServerClient(server.grpc) as client:
        control = triton.InferenceServerClient(server.grpc)

        def window() -> float:
            times, end = list[float](), time.monotonic() + seconds
            while time.monotonic() < end:
                start = time.monotonic()
                ask(client, "small", 64)
                times.append(time.monotonic() - start)
            return p99(times)

        window()
        for _ in range(windows):
            first = window()
            stop = threading.Event()
            done = [0]

            def reload(stop: threading.Event = stop, done: list[int] = done) -> None:
                while not stop.is_set():
                    control.load_model("large")
                    control.unload_model("large")
                    done[0] += 1

            thread = threading.Thread(target=reload)
            thread.start()
            second = window()
            stop.set()
            thread.join()
            loads += done[0]
            quiet.append(first)
            loud.append(second)
            ratios.append(second / first)
    return [
        f"{windows} pairs of windows of {seconds:g} s, {loads} loads and unloads of the 105 MB model in the busy ones.",
        "",
        "| | p99 of the small model, ms: median (min..max) |",
        "|---|---|",
        f"| quiet | {spread(quiet)} |",
        f"| busy | {spread(loud)} |",
        f"| ratio | {spread(ratios)} |",
    ]


def cycles(folder: Path, count: int) -> list[str]:
    chain(folder, "small", 64, 2, 1)
    chain(folder, "model", 512, 3, 2)
    flags = ("--model-control-mode", "explicit", "--load-model", "small")
    sizes = list[float]()
    with ServerProcess(folder, *flags) as server, triton.InferenceServerClient(server.grpc) as client:
        before = resident(server)
        started = time.monotonic()
        for _ in range(count):
            client.load_model("model")
            ask(client, "model", 512)
            client.unload_model("model")
            sizes.append(resident(server))
        took = time.monotonic() - started
    rows = [i for i in (1, 2, 10, 50, 100, 200, 500, 1000) if i <= count]
    return [
        f"{count} cycles of a 3 MB model in {took:.0f} s; {before:.1f} MiB before the first.",
        "",
        "| after cycle | resident set, MiB | of the first |",
        "|---|---|---|",
        *(f"| {i} | {sizes[i - 1]:.1f} | {sizes[i - 1] / sizes[0]:.3f} |" for i in rows),
    ]


def zipf(folder: Path, requests: int, models: int, holds: int) -> list[str]:
    """One in `holds` of `models` fits; several callers, popularity 1/rank."""
    width, layers = 256, 4
    for number in range(models):
        chain(folder, f"m{number}", width, layers, number)
    each = width * width * 4 * layers
    budget = holds * (each + each // 4)
    names = [f"m{number}" for number in range(models)]
    weights = [1 / (rank + 1) for rank in range(models)]
    errors, warm, cold = list[str](), list[float](), list[float]()
    with ServerProcess(
        folder, "--model-memory-budget", str(budget), environment={**os.environ}, start_seconds=300
    ) as server:
        base = resident(server)
        peak = [base]
        lock = threading.Lock()
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.02):
                peak[0] = max(peak[0], resident(server))

        def caller(seed: int) -> None:
            draw = random.Random(seed)
            with triton.InferenceServerClient(server.grpc) as client:
                for _ in range(requests // 4):
                    name = draw.choices(names, weights)[0]
                    asleep = memory(client, name) == 0
                    start = time.monotonic()
                    try:
                        ask(client, name, width)
                    except Exception as error:  # it is what is counted
                        with lock:
                            errors.append(str(error))
                    took = (time.monotonic() - start) * 1e3
                    with lock:
                        (cold if asleep else warm).append(took)

        held = list[int]()

        def memory(client: Any, name: str) -> int:
            stats = client.get_inference_statistics(name).model_stats[0]
            return int(stats.memory_usage[0].byte_size)

        watcher = threading.Thread(target=watch)
        watcher.start()
        callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(4)]
        started = time.monotonic()
        for thread in callers:
            thread.start()
        with triton.InferenceServerClient(server.grpc) as client:
            while any(thread.is_alive() for thread in callers):
                stats = client.get_inference_statistics("").model_stats
                held.append(sum(row.memory_usage[0].byte_size for row in stats))
                time.sleep(0.2)
        for thread in callers:
            thread.join()
        took = time.monotonic() - started
        stop.set()
        watcher.join()
    total = len(warm) + len(cold)
    return [
        f"{models} models of {each / MIB:.1f} MiB in {budget / MIB:.0f} MiB; {total} requests, 4 callers, "
        f"{took:.0f} s; popularity 1/rank.",
        "",
        "| | |",
        "|---|---|",
        f"| requests that failed | {len(errors)} {errors[:1] or ''} |",
        f"| found their model loaded (as asked just before) | {len(warm) / total:.1%} |",
        f"| time of these, ms: median, p99 | {statistics.median(warm):.2f}, {p99([t / 1e3 for t in warm]):.2f} |",
        f"| time of the others, ms: median, p99, worst | {statistics.median(cold):.1f}, "
        f"{p99([t / 1e3 for t in cold]):.1f}, {max(cold):.1f} |",
        f"| footprints as counted, MiB: most | {max(held) / MIB:.0f} |",
        f"| resident set, MiB: after the start, most | {base:.0f}, {peak[0]:.0f} |",
    ]


def main() -> None:
    """Measures, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("busy", "cycles", "zipf"))
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a window")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--holds", type=int, default=30)
    parser.add_argument("--report", type=Path, help="append the report to this file")
    options = parser.parse_args()
    measures: dict[str, Callable[[Path], list[str]]] = {
        "busy": lambda folder: busy(folder, options.windows, options.seconds),
        "cycles": lambda folder: cycles(folder, options.cycles),
        "zipf": lambda folder: zipf(folder, options.requests, options.models, options.holds),
    }
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        lines = measures[options.what](Path(name))
    text = "\n".join(
        [f"## {options.what}", "", f"`python benchmarks/serving/memory.py {options.what}`. {machine()}", "", *lines, ""]
    )
    print(text)
    if options.report:
        with options.report.open("a") as report:
            report.write(text + "\n")


if __name__ == "__main__":
    main()
