"""A burst of ten times the capacity for half a minute, on a model of 20 ms or more a batch with a latency objective.

Capacity is what a server without an objective answers at saturation (closed loop, 32 in flight). Then, in one server
with it: a quiet open loop at half of the capacity, the burst, and the quiet load again. Reported: goodput in the burst
(answered within the objective) over the capacity, lateness of what was accepted, how long refusals took as the client
saw it and how much CPU the server spent beyond its runs for each, its peak memory, and when all were on time again.

    python benchmarks/serving/burst.py [--seconds 30] [--factor 10] [--objective-ms 1000] [--report FILE]
"""

import argparse
import json
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import grpc
import onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "benchmarks/models"), str(ROOT / "scripts")]

from load import MODEL_INFER, cpu_seconds, percentile  # noqa: E402
from networks import NETWORKS  # noqa: E402
from open_loop import Outcome, message, offer, poisson  # noqa: E402
from unary import machine  # noqa: E402

from server_process import ServerProcess  # noqa: E402

NAME = "encoder"
QUIET = 5.0  # seconds before and after


def memory_mib(pid: int, field: str) -> float:
    """VmRSS or VmHWM."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(field + ":")[2].split()[0]) / 1024


def capacity(address: str, request: bytes, seconds: float) -> float:
    """Answers a second with 32 requests always in flight."""
    end = time.perf_counter() + seconds
    counts: list[int] = []

    def caller() -> None:
        done = 0
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(MODEL_INFER)
            while time.perf_counter() < end:
                call(request, timeout=60)
                done += 1
        counts.append(done)

    threads = [threading.Thread(target=caller) for _ in range(32)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def successes(address: str) -> tuple[int, float]:
    """Of the server's own count, and the seconds that its runs took."""
    with urllib.request.urlopen(f"http://{address}/v2/models/{NAME}/stats", timeout=10) as answer:
        told = json.load(answer)["model_stats"][0]
    runs = sum(row["compute_infer"]["ns"] for row in told["batch_stats"]) / 1e9
    return told["inference_stats"]["success"]["count"], runs


def on_time(outcomes: Sequence[Outcome], objective: float) -> int:
    """How many were answered within the objective."""
    return sum(outcome.ok and outcome.latency <= objective for outcome in outcomes)


def spread_ms(latencies: Sequence[float]) -> str:
    """Median, 99th percentile and largest; seconds in, milliseconds out."""
    if not latencies:
        return "-"
    values = sorted(latencies)
    return ", ".join(
        f"{value * 1e3:.1f} ms" for value in (percentile(values, 0.5), percentile(values, 0.99), values[-1])
    )


def main() -> None:
    """Measures, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--factor", type=float, default=10)
    parser.add_argument("--objective-ms", type=float, default=1000)
    parser.add_argument("--report", type=Path, help="also write the report here")
    options = parser.parse_args()
    objective = options.objective_ms / 1e3
    request = message(NAME, NETWORKS["bert_base"].row())
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        version = Path(name) / "models" / NAME / "1"
        version.mkdir(parents=True)
        onnx.save(NETWORKS["bert_base"].build(), version / "model.onnx")
        config = version.parent / "config.pbtxt"

        def measured_capacity() -> float:
            config.unlink(missing_ok=True)
            with ServerProcess(Path(name) / "models") as server:
                capacity(server.grpc, request, 2)
                return capacity(server.grpc, request, 6)

        most = measured_capacity()
        config.write_text(
            f'parameters {{ key: "latency_objective_ms" value: {{ string_value: "{options.objective_ms:g}" }} }}\n'
        )
        with ServerProcess(Path(name) / "models") as server:
            pid = server.process.pid
            # The objective is the server's to keep: clients would wait longer.
            waits = {NAME: objective * 5}
            start, middle = QUIET, QUIET + options.seconds
            arrivals = [
                *poisson({NAME: most / 2}, QUIET, 1),
                *(
                    a.__class__(a.at + start, a.model)
                    for a in poisson({NAME: most * options.factor}, options.seconds, 2)
                ),
                *(a.__class__(a.at + middle, a.model) for a in poisson({NAME: most / 2}, QUIET, 3)),
            ]
            before, runs_before = successes(server.http)
            cpu_before, memory_before = cpu_seconds(pid), memory_mib(pid, "VmRSS")
            outcomes = offer(server.grpc, arrivals, {NAME: request}, waits)
            after, runs_after = successes(server.http)
            cpu, peak = cpu_seconds(pid) - cpu_before, memory_mib(pid, "VmHWM")
        again = measured_capacity()  # hosts change their speed within a minute
    burst = [o for o in outcomes if start <= o.arrival.at < middle]
    accepted = [o for o in burst if o.ok]
    refused = [o.latency for o in burst if not o.ok]
    late = [o for o in accepted if o.latency > objective]
    tail = [o for o in outcomes if o.arrival.at >= middle]
    bad = [o.arrival.at - middle for o in tail if not o.ok or o.latency > objective]
    if after - before != sum(o.ok for o in outcomes):
        raise SystemExit(f"the server counts {after - before} answers, the client {sum(o.ok for o in outcomes)}")
    goodput = on_time(burst, objective) / options.seconds
    quiet = [o for o in outcomes if o.arrival.at < start]
    told = Counter(o.code.name for o in burst if not o.ok)
    overhead = max(cpu - (runs_after - runs_before), 0) / len(outcomes) * 1e6
    rows = {
        "capacity (32 in flight), before and after": f"{most:.1f}/s, {again:.1f}/s",
        "offered in the burst": f"{len(burst) / options.seconds:.0f}/s",
        "goodput in the burst": f"{goodput:.1f}/s, {goodput / ((most + again) / 2):.2f} of capacity",
        "accepted; of them late": f"{len(accepted)}; {len(late)} ({len(late) / max(len(accepted), 1):.2%})",
        "latency of the accepted, p50, p99, most": spread_ms([o.latency for o in accepted]),
        "refused": f"{len(refused)}: {dict(told)}",
        "refusals as the client saw them, p50, p99, most": spread_ms(refused),
        "server CPU beyond its runs, a request of the whole": f"{overhead:.0f} us",
        "memory before, peak": f"{memory_before:.0f} MiB, {peak:.0f} MiB",
        "late ones came, seconds into the burst": f"{min((o.arrival.at - start for o in late), default=0):.1f} to "
        f"{max((o.arrival.at - start for o in late), default=0):.1f}, median "
        f"{median([o.arrival.at - start for o in late] or [0]):.1f}",
        "all on time again after": f"{max(bad, default=0.0):.2f} s",
        "on time before the burst": f"{on_time(quiet, objective)} of {len(quiet)}",
    }
    lines = [
        machine(),
        "",
        f"`python benchmarks/serving/burst.py --seconds {options.seconds:g} --factor {options.factor:g} --objective-ms "
        f"{options.objective_ms:g}`: {NETWORKS['bert_base'].text}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {said} |" for what, said in rows.items()),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.report:
        options.report.write_text(text)


if __name__ == "__main__":
    main()
