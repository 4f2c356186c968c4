"""One ModelStreamInfer stream with 64 messages in flight beside 64 unary calls in flight, each on one connection.

The same native client (benchmarks/serving/stream_load.cc) for both, interleaved pairs, every run's count compared with
the server's own count of successes. A rate counts what the server answered, not what was sent.
"""

import argparse
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(Path(__file__).parent)]

from load import cpu_seconds, spread  # noqa: E402
from unary import SMALL, Server, check_answers, headrace, machine  # noqa: E402

LOAD = ROOT / "build/package/benchmarks/stream_load"


def run(server: Server, mode: str, in_flight: int, requests: int, payload: Path) -> tuple[float, float]:
    """Requests/s and microseconds of the server's CPU for each, of one run."""
    before, cpu = server.count(), cpu_seconds(server.pid)
    port = server.address.rpartition(":")[2]
    command = [str(LOAD), port, mode, str(in_flight), str(requests), str(payload)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cpu = cpu_seconds(server.pid) - cpu
    told = re.fullmatch(r"([0-9.]+) s, (\d+) good\n", done.stdout)
    if done.returncode != 0 or told is None or int(told[2]) != requests:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    answered = server.count() - before
    if answered != requests:
        raise SystemExit(f"the server answered {answered} of {requests} requests with success")
    return answered / float(told[1]), cpu / answered * 1e6


def main() -> None:
    """Runs the pairs and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--requests", type=int, default=200_000, help="of each run")
    parser.add_argument("--report", type=Path, help="also write the report here")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"unary": [], "stream": []}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        version = folder / "repository" / SMALL.model / "1"
        version.mkdir(parents=True)
        shutil.copyfile(ROOT / f"benchmarks/models/{SMALL.model}.onnx", version / "model.onnx")
        payload = folder / "message"
        body = SMALL.request()
        payload.write_bytes(struct.pack(">BI", 0, len(body)) + body)
        with headrace(folder / "repository", SMALL) as server:
            check_answers(server, SMALL)
            for mode in found:
                run(server, mode, options.in_flight, options.requests // 10, payload)
            for pair in range(options.pairs):
                for mode in sorted(found, reverse=pair % 2 == 0):
                    found[mode].append(run(server, mode, options.in_flight, options.requests, payload))
    rates = {mode: [rate for rate, _ in rows] for mode, rows in found.items()}
    cpu = {mode: [used for _, used in rows] for mode, rows in found.items()}
    ratios = [stream / unary for stream, unary in zip(rates["stream"], rates["unary"], strict=True)]
    lines = [
        machine(),
        "",
        f"`python benchmarks/serving/streams.py --pairs {options.pairs} --in-flight {options.in_flight} --requests "
        f"{options.requests}`; median (min..max) of {options.pairs} interleaved pairs, model {SMALL.model}, one "
        "connection, the same native client for both. Counted by the server.",
        "",
        "| | req/s | server CPU us/req |",
        "|---|---|---|",
        *(f"| {mode}, {options.in_flight} in flight | {spread(rates[mode], ',.0f')} | {spread(cpu[mode], '.1f')} |"
          for mode in ("unary", "stream")),
        "",
        f"One stream does {statistics.median(ratios):.2f} of unary's rate ({spread(ratios)}; wanted: 0.7).",
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    if options.report is not None:
        options.report.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
