"""Memory: what a load costs those who are served, what comes back, and more models than there is room for.

    python benchmarks/serving/memory.py busy     p99 of a small model while a 100 MB model loads and unloads in a loop
    python benchmarks/serving/memory.py cycles   resident set over 1,000 cycles of load, inference and unload
    python benchmarks/serving/memory.py zipf     300 models in a budget that holds 30, Zipf traffic
    python benchmarks/serving/memory.py versions three models with equal weights: shared, and not
    python benchmarks/serving/memory.py idle     resident set after a burst of large requests, second by second

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


def weighty(folder: Path, kind: str, name: str, ends: str, share: bool) -> list[int]:
    """100 MB of matrix products or convolutions with equal weights whatever its name and its last node. The shape that
    it takes."""
    dense = kind == "MatMul"
    rng = np.random.default_rng(9)
    shapes = [(1280, 1280)] * 16 if dense else [(512, 512, 3, 3)] * 11
    dims: list[Any] = ["batch", 1280] if dense else ["batch", 512, 8, 8]
    more: dict[str, Any] = {} if dense else {"pads": [1, 1, 1, 1]}
    nodes, weights, last = [], [], "x"
    for i, shape in enumerate(shapes):
        scale = float(np.prod(shape[1:])) ** -0.5
        weights.append(numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node(kind, [last, f"w{i}"], [f"h{i}"], **more))
        last = f"h{i}"
    nodes.append(helper.make_node(ends, [last], ["y"]))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
        weights,
    )
    target = folder / name / "1"
    target.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), target / "model.onnx"
    )
    (folder / name / "config.pbtxt").write_text(
        f'parameters {{ key: "share_weights" value {{ string_value: "{int(share)}" }} }}\n'
        'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'
    )
    return [1, *dims[1:]]


def high_water(server: ServerProcess, reset: bool = False) -> float:
    """MiB: the most that was resident since the last reset."""
    process = Path(f"/proc/{server.process.pid}")
    if reset:
        (process / "clear_refs").write_text("5")
    line = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def versions(folder: Path) -> list[str]:
    """Models of equal weights, one after the other; the second and third end in another node."""
    lines = [
        "| 100 MB of | weights | model | load, s | resident set, MiB more | most while it loaded, MiB more | "
        "a request, ms: median | answers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, what in (("MatMul", "products"), ("Conv", "convolutions")):
        answers = dict[str, Any]()
        for share in (False, True):
            models = folder / f"{what}-{share}"
            chain(models, "small", 64, 2, 1)
            names = {"one": "Neg", "two": "Identity", "three": "Abs"}
            shapes = [weighty(models, kind, name, ends, share) for name, ends in names.items()]
            shape = shapes[0]
            x = triton.InferInput("x", shape, "FP32")
            x.set_data_from_numpy(np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape))
            flags = ("--model-control-mode", "explicit", "--load-model", "small")
            with ServerProcess(models, *flags) as server, triton.InferenceServerClient(server.grpc) as client:
                ask(client, "small", 64)
                before = resident(server)
                for name in names:
                    high_water(server, reset=True)
                    started = time.monotonic()
                    client.load_model(name)
                    took = time.monotonic() - started
                    most = high_water(server) - before
                    times = list[float]()
                    for _ in range(40):
                        started = time.monotonic()
                        answer = client.infer(name, [x]).as_numpy("y")
                        times.append((time.monotonic() - started) * 1e3)
                    same = np.array_equal(answer, answers.setdefault(name, answer))
                    lines.append(
                        f"| {what} | {'shared' if share else 'its own'} | {name} | {took:.2f} | "
                        f"{resident(server) - before:.1f} | {most:.1f} | {statistics.median(times):.2f} | "
                        f"{'equal to the bit' if same else 'DIFFERENT'} |"
                    )
    lines.append("")
    for kind, what in (("MatMul", "products"), ("Conv", "convolutions")):
        lines.append(side_by_side(folder / f"{what}-beside", kind, what))
    return lines


def side_by_side(models: Path, kind: str, what: str) -> str:
    """What a request of shared weights takes beside one of a session's own, in turns."""
    for name, share in (("shared", True), ("own", False)):
        shape = weighty(models, kind, name, "Neg", share)
    x = triton.InferInput("x", shape, "FP32")
    x.set_data_from_numpy(np.ones(shape, np.float32))
    times: dict[str, list[float]] = {"shared": [], "own": []}
    with ServerProcess(models) as server, triton.InferenceServerClient(server.grpc) as client:
        for turn in range(60):
            for name in ("shared", "own") if turn % 2 else ("own", "shared"):
                started = time.monotonic()
                client.infer(name, [x])
                times[name].append((time.monotonic() - started) * 1e3)
    ratios = [a / b for a, b in zip(times["shared"], times["own"], strict=True)]
    return (
        f"- {what}, 60 requests each in turns: median {statistics.median(times['shared']):.2f} ms with shared weights, "
        f"{statistics.median(times['own']):.2f} ms with a session's own; median of the ratios {spread(ratios)}."
    )


def idle(folder: Path, seconds: int) -> list[str]:
    """A burst of requests of 16 MiB and more of activations, and then nothing."""
    shape = weighty(folder, "MatMul", "model", "Neg", share=False)
    chain(folder, "small", 64, 2, 1)
    rows = 3000
    with (folder / "model" / "config.pbtxt").open("a") as config:
        config.write(f"max_batch_size: {rows}\n")
    x = triton.InferInput("x", [rows, shape[1]], "FP32")
    x.set_data_from_numpy(np.ones((rows, shape[1]), np.float32))
    with ServerProcess(folder) as server:

        def caller() -> None:
            with triton.InferenceServerClient(server.grpc) as client:
                client.infer("model", [x])

        with triton.InferenceServerClient(server.grpc) as client:
            ask(client, "model", shape[1])
        time.sleep(12)
        before = resident(server)
        callers = [threading.Thread(target=caller) for _ in range(4)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
        sizes = [resident(server)]
        for _ in range(seconds):
            time.sleep(1)
            sizes.append(resident(server))
        with triton.InferenceServerClient(server.grpc) as client:
            started = time.monotonic()
            ask(client, "model", shape[1])
            first = (time.monotonic() - started) * 1e3
            started = time.monotonic()
            ask(client, "model", shape[1])
            second = (time.monotonic() - started) * 1e3
    return [
        f"4 requests of {rows} rows of 1,280 floats ({rows * 1280 * 4 / MIB:.0f} MiB each way), 4 callers; "
        f"{before:.1f} MiB before. The first small request after it {first:.1f} ms, the second {second:.1f} ms.",
        "",
        "| seconds after the last answer | resident set, MiB | of what it was before |",
        "|---|---|---|",
        *(f"| {i} | {size:.1f} | {size / before:.3f} |" for i, size in enumerate(sizes)),
    ]


def main() -> None:
    """Measures, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("busy", "cycles", "zipf", "versions", "idle"))
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
        "versions": versions,
        "idle": lambda folder: idle(folder, 15),
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
