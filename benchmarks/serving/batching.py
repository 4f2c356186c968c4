"""Dynamic batching on (no config.pbtxt) beside off, on an MLP: 64 one-row requests in flight on one connection.

Pairs are interleaved; rates are checked against the server's own success count.

    python benchmarks/serving/batching.py --model build/models/mlp.onnx [--pairs 5] [--requests 60000] [--report FILE]
"""

import argparse
import contextlib
import shutil
import statistics
import struct
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent)]

from load import Load, Result, spread  # noqa: E402
from unary import STATISTICS, Case, Server, headrace, machine  # noqa: E402

from headrace import _proto  # noqa: E402

ALONE = "max_batch_size: 32\n"  # and no dynamic_batching: each request runs alone


def mean_batch(server: Server, model: str) -> float:
    """Rows a run, since the start."""
    request = _proto.ModelStatisticsRequest(name=model).SerializeToString()
    rows = _proto.ModelStatisticsResponse.FromString(server.call(STATISTICS, request)).model_stats
    return float(sum(row.inference_count for row in rows) / sum(row.execution_count for row in rows))


def main() -> None:
    """Measures, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60_000)
    parser.add_argument("--report", type=Path, help="append the report to this file")
    options = parser.parse_args()
    load = Load(1, 64, options.requests)
    runs: dict[str, list[Result]] = {"on": [], "off": []}
    batches: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        servers = {}
        for side in runs:
            version = folder / side / "mlp" / "1"
            version.mkdir(parents=True)
            shutil.copy(options.model, version / "model.onnx")
            if side == "off":
                (version.parent / "config.pbtxt").write_text(ALONE)
            servers[side] = stack.enter_context(headrace(folder / side, Case("mlp", {}, lambda given: given, 0)))
        metadata = _proto.ModelMetadataResponse.FromString(
            servers["on"].call(
                "/inference.GRPCInferenceService/ModelMetadata",
                _proto.ModelMetadataRequest(name="mlp").SerializeToString(),
            )
        )
        row = np.full((1, 64), 0.5, np.float32)
        request = Case("mlp", {metadata.inputs[0].name: row}, lambda given: given, 0).request()
        payload = folder / "mlp.bin"
        payload.write_bytes(b"\0" + struct.pack(">I", len(request)) + request)
        for server in servers.values():
            server.measure(payload, replace(load, requests=options.requests // 5))
        for pair in range(options.pairs):
            for side in ("on", "off") if pair % 2 == 0 else ("off", "on"):
                runs[side].append(servers[side].measure(payload, load))
        for side, server in servers.items():
            batches[side] = mean_batch(server, "mlp")
    ratios = [on.rate / off.rate for on, off in zip(runs["on"], runs["off"], strict=True)]
    lines = [
        machine(),
        "",
        f"`python benchmarks/serving/batching.py --model build/models/mlp.onnx --pairs {options.pairs}`: MLP "
        f"64-128-128-128-10, one-row requests, {load} in flight; median (min..max) of {options.pairs} pairs.",
        "",
        "| dynamic batching | rows a run | req/s | server CPU us/req |",
        "|---|---|---|---|",
        *(
            f"| {side} | {batches[side]:.1f} | {spread([r.rate for r in results], ',.0f')} "
            f"| {spread([r.server_cpu_us for r in results], '.1f')} |"
            for side, results in runs.items()
        ),
        "",
        f"Rate, on over off: {spread(ratios)}; median {statistics.median(ratios):.2f}.",
    ]
    text = "\n".join(lines) + "\n"
    if options.report is not None:
        options.report.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
