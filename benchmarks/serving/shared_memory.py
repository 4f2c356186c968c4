"""A 3x224x224 image in system shared memory, its scores in the answer: server CPU beyond the model itself.

Beside it, in interleaved rounds: the same image in the message, and the model alone (ONNX Runtime from Python on one
thread, its own call overhead included). Rates are checked against the server's count of successes, and an answer
against NumPy's.

    python benchmarks/serving/shared_memory.py [--rounds 5] [--requests 4000] [--report FILE]
"""

import argparse
import shutil
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tritonclient import grpc as triton
from tritonclient.utils import shared_memory

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "scripts")]

from load import MODEL_INFER, Load, Result, spread  # noqa: E402
from unary import LARGE, headrace, machine  # noqa: E402

from headrace import _proto  # noqa: E402

IMAGE = LARGE.inputs["image"]
MODEL = ROOT / "benchmarks/models/image.onnx"
LOADS = (Load(1, 1, 0), Load(4, 4, 0))


def framed(message: bytes) -> bytes:
    """A gRPC message."""
    return b"\0" + struct.pack(">I", len(message)) + message


def request_there() -> bytes:
    """The request whose image lies in the region `image`."""
    request = _proto.ModelInferRequest(model_name=LARGE.model)
    given = request.inputs.add(name="image", datatype="FP32", shape=IMAGE.shape)
    given.parameters["shared_memory_region"].string_param = "image"
    given.parameters["shared_memory_byte_size"].int64_param = IMAGE.nbytes
    serialised: bytes = request.SerializeToString()
    return serialised


def model_cpu_us(session: Any, runs: int) -> float:
    """CPU of one run of the model, in microseconds."""
    feed = {"image": IMAGE}
    before = time.process_time()
    for _ in range(runs):
        session.run(None, feed)
    return (time.process_time() - before) / runs * 1e6


def main() -> None:
    """Measures, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--report", type=Path, help="also write the report here")
    options = parser.parse_args()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(MODEL), settings, providers=["CPUExecutionProvider"])
    loads = [Load(load.connections, load.streams, options.requests) for load in LOADS]
    alone: list[float] = []
    there: dict[str, list[Result]] = {str(load): [] for load in loads}
    sent: dict[str, list[Result]] = {str(load): [] for load in loads}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        version = folder / "models" / LARGE.model / "1"
        version.mkdir(parents=True)
        shutil.copy(MODEL, version / "model.onnx")
        (folder / "there").write_bytes(framed(request_there()))
        (folder / "sent").write_bytes(framed(LARGE.request()))
        region = shared_memory.create_shared_memory_region("image", f"/{folder.name}", IMAGE.nbytes)
        try:
            shared_memory.set_shared_memory_region(region, [IMAGE])
            arguments = ("--allow-client-shm", "--compute-threads", "1")
            with headrace(folder / "models", LARGE, *arguments) as server:
                with triton.InferenceServerClient(server.address) as client:
                    client.register_system_shared_memory("image", f"/{folder.name}", IMAGE.nbytes)
                answer = _proto.ModelInferResponse.FromString(server.call(MODEL_INFER, request_there()))
                scores = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(1, -1)
                np.testing.assert_allclose(scores, LARGE.expected(LARGE.inputs)["scores"], rtol=1e-3)
                for number in range(options.rounds + 1):  # the first is a warm-up
                    used = model_cpu_us(session, options.requests)
                    shared = [server.measure(folder / "there", load) for load in loads]
                    inline = [server.measure(folder / "sent", load) for load in loads]
                    if number == 0:
                        continue
                    alone.append(used)
                    for load, a, b in zip(loads, shared, inline, strict=True):
                        there[str(load)].append(a)
                        sent[str(load)].append(b)
        finally:
            shared_memory.destroy_shared_memory_region(region)
    lines = [
        machine(),
        "",
        f"`python benchmarks/serving/shared_memory.py --rounds {options.rounds} --requests {options.requests}`: "
        f"median (min..max) of {options.rounds} interleaved rounds. The model alone: {spread(alone, '.1f')} us of CPU.",
        "",
        "| connections x streams | image | req/s | server CPU us/req | beyond the model, us |",
        "|---|---|---|---|---|",
    ]
    for at, shared in there.items():
        for where, results in (("in shared memory", shared), ("in the message", sent[at])):
            beyond = [result.server_cpu_us - used for result, used in zip(results, alone, strict=True)]
            lines.append(
                f"| {at} | {where} | {spread([r.rate for r in results], ',.0f')} | "
                f"{spread([r.server_cpu_us for r in results], '.1f')} | {spread(beyond, '.1f')} |"
            )
    saved = [a.server_cpu_us / b.server_cpu_us for load in there for a, b in zip(there[load], sent[load], strict=True)]
    lines += ["", f"Of the CPU that the image in the message costs: {statistics.median(saved):.0%}."]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.report:
        options.report.write_text(text)


if __name__ == "__main__":
    main()
