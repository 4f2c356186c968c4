"""A binary inference of add_sub over HTTP/1.1, beside uvicorn (uvloop, httptools) with an ASGI echo of the same bytes.

Pairs are interleaved; ours is checked against the server's own success count, and an answer against the right one. The
generator's CPU stands beside the rates: where it is a whole core, the rate is the generator's.

    python benchmarks/serving/http_binary.py [--pairs 5] [--requests 100000] [--connections 16] [--report FILE]
"""

import argparse
import json
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "scripts")]

from load import cpu_seconds, spread  # noqa: E402
from unary import machine  # noqa: E402

from server_process import ServerProcess  # noqa: E402

INFER = "/v2/models/add_sub/infer"
VALUES = np.arange(16, dtype=np.int32)


class Run(NamedTuple):
    """Of one load: requests a second, and CPU of server and generator in microseconds a request."""

    rate: float
    cpu_us: float
    generator_us: float


def body() -> tuple[bytes, int]:
    """A request of two [1,16] INT32 tensors, and how much of it is JSON."""
    tensors = [
        {"name": name, "datatype": "INT32", "shape": [1, 16], "parameters": {"binary_data_size": 64}} for name in "ab"
    ]
    text = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    return text + VALUES.tobytes() * 2, len(text)


def load(url: str, pid: int, file: Path, json_bytes: int, *, requests: int, connections: int) -> Run:
    """One run of h2load. RuntimeError unless all were answered 200."""
    command = ["h2load", "--h1", "-n", str(requests), "-c", str(connections), "-t", "1", "-d", str(file)]
    before, began = cpu_seconds(pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "-H", f"Inference-Header-Content-Length: {json_bytes}", url],
        capture_output=True,
        text=True,
        check=True,
    )
    after, ended = cpu_seconds(pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    good = re.search(r"status codes: (\d+) 2xx", done.stdout)
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", done.stdout)
    if good is None or rate is None or int(good.group(1)) != requests:
        raise RuntimeError(f"not every request was answered 200:\n{done.stdout}")
    generator = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return Run(float(rate.group(1)), (after - before) / requests * 1e6, generator / requests * 1e6)


def successes(address: str) -> int:
    """Of the server's own count."""
    with urllib.request.urlopen(f"http://{address}/v2/models/add_sub/stats", timeout=10) as answer:
        stats: Any = json.load(answer)["model_stats"][0]
    return int(stats["inference_stats"]["success"]["count"])


def check_answer(address: str, data: bytes, json_bytes: int) -> None:
    """RuntimeError when the sum is not right."""
    headers = {"Inference-Header-Content-Length": str(json_bytes), "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"http://{address}{INFER}", data, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        raw = answer.read()[int(answer.headers["Inference-Header-Content-Length"]) :]
    if not np.array_equal(np.frombuffer(raw[:64], np.int32), VALUES + VALUES):
        raise RuntimeError("add_sub answered with a wrong sum")


def start_echo() -> tuple["subprocess.Popen[bytes]", int]:
    """uvicorn on a free port, once it accepts connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(__file__).parent), "--port", str(port), *options]
    process = subprocess.Popen([*command, "asgi_echo:app"])
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                process.kill()
                raise RuntimeError("uvicorn did not start") from None
            time.sleep(0.05)
        else:
            return process, port


def main() -> None:
    """Measures, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--report", type=Path, help="append the report to this file")
    options = parser.parse_args()
    data, json_bytes = body()
    ours: list[Run] = []
    theirs: list[Run] = []
    echo, port = start_echo()
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
            folder = Path(name)
            (folder / "payload").write_bytes(data)
            version = folder / "models/add_sub/1"
            version.mkdir(parents=True)
            shutil.copy(ROOT / "benchmarks/models/add_sub.onnx", version / "model.onnx")
            with ServerProcess(folder / "models", "--lanes", "1", "--compute-threads", "1") as server:
                check_answer(server.http, data, json_bytes)

                def measure_ours() -> None:
                    before = successes(server.http)
                    url = f"http://{server.http}{INFER}"
                    pid = server.process.pid
                    ours.append(
                        load(
                            url,
                            pid,
                            folder / "payload",
                            json_bytes,
                            requests=options.requests,
                            connections=options.connections,
                        )
                    )
                    if successes(server.http) - before != options.requests:
                        raise RuntimeError("the server counted another number of successes")

                def measure_theirs() -> None:
                    url = f"http://127.0.0.1:{port}/"
                    requests = options.requests // 3
                    theirs.append(
                        load(
                            url,
                            echo.pid,
                            folder / "payload",
                            json_bytes,
                            requests=requests,
                            connections=options.connections,
                        )
                    )

                for number in range(options.pairs):
                    both = (measure_ours, measure_theirs)
                    for measure in both if number % 2 == 0 else reversed(both):
                        measure()
    finally:
        echo.terminate()
        echo.wait()
    rates = [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]
    costs = [a.cpu_us / b.cpu_us for a, b in zip(ours, theirs, strict=True)]
    busy = [run.rate * run.generator_us / 1e6 for run in ours]
    lines = [
        machine(),
        "",
        f"`python benchmarks/serving/http_binary.py --pairs {options.pairs} --connections {options.connections}`: "
        f"median (min..max) of {options.pairs} interleaved pairs, {len(data)} bytes a request.",
        "",
        "| | headrace, add_sub inferred | uvicorn, the bytes sent back | ratio |",
        "|---|---|---|---|",
        f"| req/s | {spread([r.rate for r in ours], ',.0f')} | {spread([r.rate for r in theirs], ',.0f')} | "
        f"{spread(rates)} |",
        f"| server CPU us/req | {spread([r.cpu_us for r in ours], '.1f')} | "
        f"{spread([r.cpu_us for r in theirs], '.1f')} | {spread(costs, '.3f')} |",
        f"| generator CPU us/req | {spread([r.generator_us for r in ours], '.1f')} | "
        f"{spread([r.generator_us for r in theirs], '.1f')} | |",
        "",
        f"The generator used {statistics.median(busy):.0%} of a core with headrace.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.report:
        with options.report.open("a") as file:
            file.write(text)


if __name__ == "__main__":
    main()
