"""Batches really form, their rows never mix, and nobody pays for a mate's mistake."""

import asyncio
import re
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from e2e.checks import when_running
from e2e.clients import (
    CLIENTS,
    SECONDS,
    Array,
    Call,
    Reference,
    Tensors,
    answer_of,
    assert_close,
    assert_equal,
    request,
    rows_of,
    stub,
)
from server_process import ServerProcess

FOREVER = 1 << 40  # iterations of `slow`: it runs until it is cancelled
A_MOMENT = (
    "max_batch_size: 16 dynamic_batching { max_queue_delay_microseconds: 3000 }"  # so that calls of a moment meet
)
MODELS = {
    "mlp": ("mlp", None),
    "mlp_alone": ("mlp", "max_batch_size: 32"),
    "gather_rows": ("gather_rows", None),
    "slow": ("slow", "max_batch_size: 1"),
    "dynamic_inner": ("dynamic_inner", A_MOMENT),
    "optional_input": ("optional_input", None),
    "add_sub": ("add_sub", A_MOMENT),
    "twice_bytes": ("twice_bytes", A_MOMENT),
}


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One lane, so that what comes while it is busy has to meet, and batches as large as can be. At the end the pool is
    empty."""
    repository = tmp_path_factory.mktemp("batches")
    for name, (model, config) in MODELS.items():
        version = repository / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(models / f"{model}.onnx", version / "model.onnx")
        if config is not None:
            (repository / name / "config.pbtxt").write_text(config)
    with ServerProcess(repository, "--lanes", "1", "--scheduler-learning", "off", "--compute-threads", "1") as running:
        yield running
        assert running.stop() == 0
        assert "0 bytes in 0 blocks in use" in running.output()


@pytest.fixture(scope="module")
def calls(server: ServerProcess) -> Iterator[Any]:
    """The protocol's calls by plain grpcio."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield stub(channel)


class Counts(NamedTuple):
    """Of one model so far: rows, runs, requests answered, and runs of each batch size."""

    rows: int
    runs: int
    answered: int
    sizes: dict[int, int]

    def since(self, before: "Counts") -> "Counts":
        sizes = {size: count - before.sizes.get(size, 0) for size, count in self.sizes.items()}
        return Counts(
            self.rows - before.rows,
            self.runs - before.runs,
            self.answered - before.answered,
            {size: count for size, count in sizes.items() if count},
        )


def counts(calls: Any, model: str) -> Counts:
    told = calls.ModelStatistics(service_pb2.ModelStatisticsRequest(name=model), timeout=SECONDS).model_stats[0]
    sizes = {batch.batch_size: batch.compute_infer.count for batch in told.batch_stats}
    return Counts(told.inference_count, told.execution_count, told.inference_stats.success.count, sizes)


def assert_consistent(formed: Counts, most: int) -> None:
    """The table of batch sizes tells the same story as the sums."""
    assert sum(size * count for size, count in formed.sizes.items()) == formed.rows
    assert sum(formed.sizes.values()) == formed.runs
    assert max(formed.sizes) <= most


def h2load(server: ServerProcess, body: Path, requests: int) -> None:
    """ModelInfer with `body`, so many times, 64 in flight on one connection."""
    command = ["h2load", "-n", str(requests), "-c", "1", "-m", "64", "-t", "1", "-d", str(body)]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    url = f"http://{server.grpc}/inference.GRPCInferenceService/ModelInfer"
    told = subprocess.run([*command, *headers, url], capture_output=True, text=True, timeout=SECONDS * 2, check=True)
    assert re.search(rf"requests: {requests} total, .* {requests} succeeded, 0 failed, 0 errored", told.stdout)


def body_of(path: Path, model: str) -> Path:
    """A framed request of one row for the network."""
    row = np.random.default_rng(1).normal(0, 1, (1, 64)).astype(np.float32)
    message = request(model, {"x": row}).SerializeToString()
    path.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    return path


def test_batches_of_eight_and_more_form_under_load(server: ServerProcess, calls: Any, tmp_path: Path) -> None:
    body = body_of(tmp_path / "body", "mlp")
    before = counts(calls, "mlp")
    h2load(server, body, 20_000)
    formed = counts(calls, "mlp").since(before)
    assert (formed.rows, formed.answered) == (20_000, 20_000), "h2load does not see the errors of gRPC"
    assert formed.rows / formed.runs >= 8
    assert_consistent(formed, 32)


def cpu_seconds(server: ServerProcess) -> float:
    """Processor time of all threads of the server so far."""
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def test_batching_saves_processor_time(server: ServerProcess, calls: Any, tmp_path: Path) -> None:
    """Processor time and not the rate, because it can be trusted on a machine that does other things too; the rates are
    in the benchmarks. With one lane and one loop it is what bounds the rate."""
    bodies = {model: body_of(tmp_path / model, model) for model in ("mlp", "mlp_alone")}
    ratios = []
    for pair in range(5):
        spent = {}
        for model in ("mlp", "mlp_alone") if pair % 2 == 0 else ("mlp_alone", "mlp"):
            before = cpu_seconds(server)
            h2load(server, bodies[model], 4_000)
            spent[model] = cpu_seconds(server) - before
        ratios.append(spent["mlp"] / spent["mlp_alone"])
    alone = counts(calls, "mlp_alone")
    assert alone.rows == alone.runs == alone.answered == 5 * 4_000
    assert statistics.median(ratios) < 1, ratios


@pytest.mark.parametrize("client", CLIENTS)
def test_each_row_of_a_batch_gets_its_own_answer(client: str, server: ServerProcess, calls: Any, models: Path) -> None:
    rows = np.random.default_rng(2).normal(0, 1, (256, 64)).astype(np.float32)
    before = counts(calls, "mlp")
    told = CLIENTS[client](server.grpc, [Call("mlp", {"x": row}) for row in rows_of(rows)], 64)
    formed = counts(calls, "mlp").since(before)
    assert formed.answered == formed.rows == len(rows)
    assert_consistent(formed, 32)
    wanted = Reference(models / "mlp.onnx")({"x": rows})
    assert_close({"logits": np.concatenate([answer["logits"] for answer in told])}, wanted)


def gathered(server: ServerProcess, calls: Any, messages: list[Any]) -> list[Any]:
    """The calls of these messages, sent while the only lane is busy, so that they run together when it is free."""
    held = calls.ModelInfer.future(request("slow", {"iterations": np.array([[FOREVER]], np.int64)}))
    when_running(server.http, "slow", 1)
    try:
        sent = [calls.ModelInfer.future(message) for message in messages]
        # Calls on one connection arrive in order: when this answer is here, those are in the queue.
        assert calls.ServerLive(service_pb2.ServerLiveRequest(), timeout=SECONDS).live
    finally:
        held.cancel()
    return sent


def test_only_the_guilty_request_gets_the_error(server: ServerProcess, calls: Any) -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    indices = [np.array([[i % 4, (i + 1) % 4]], np.int64) for i in range(16)]
    indices[5] = np.array([[0, 99]], np.int64)
    before = counts(calls, "gather_rows")
    sent = gathered(server, calls, [request("gather_rows", {"index": index}) for index in indices])
    for number, (call, index) in enumerate(zip(sent, indices, strict=True)):
        if number == 5:
            error = call.exception(SECONDS)
            assert error.code() is StatusCode.INVALID_ARGUMENT
            assert "idx=99" in error.details()
        else:
            np.testing.assert_array_equal(answer_of(call.result(SECONDS))["y"], table[index])
    formed = counts(calls, "gather_rows").since(before)
    assert formed.answered == 15
    assert max(formed.sizes) >= 2, "those without fault still share runs"


def test_rows_of_requests_of_several_rows(server: ServerProcess, calls: Any) -> None:
    """Batches are whole requests, up to max_batch_size rows."""
    arrays = [np.full((rows, 64), rows, np.float32) for rows in (20, 12, 1, 31, 32, 5, 27)]
    messages = [request("mlp", {"x": array}) for array in arrays]
    for message in messages:
        message.parameters["headrace_timing"].bool_param = True
    sent = gathered(server, calls, messages)
    responses = [call.result(SECONDS) for call in sent]
    assert [response.outputs[0].shape[0] for response in responses] == [len(array) for array in arrays]
    assert {response.parameters["headrace_batch_size"].int64_param for response in responses} == {32}


# --- Random mixes, held against solo answers -------------------------------------------------------------------------


def whole(shape: tuple[int, ...], seed: int) -> Array:
    """Whole numbers as floats: sums of them are exact in any order, so that answers can be compared bit for bit."""
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.float32)


def dynamic_inner(rows: int, inner: int, seed: int) -> Call:
    return Call("dynamic_inner", {"x": whole((rows, inner, 4), seed)})


def optional_input(rows: int, inner: int, seed: int) -> Call:
    scale: Tensors = {"scale": np.array([inner], np.float32)} if inner % 2 else {}
    return Call("optional_input", {"x": whole((rows, 4), seed), **scale})


def add_sub(rows: int, _: int, seed: int) -> Call:
    random = np.random.default_rng(seed)
    return Call("add_sub", {name: random.integers(-(1 << 30), 1 << 30, (rows, 16), np.int32) for name in "ab"})


def twice_bytes(rows: int, inner: int, seed: int) -> Call:
    words = [f"{seed}-{i}".encode() * inner for i in range(rows * 3)]
    return Call("twice_bytes", {"x": np.array(words, np.object_).reshape(rows, 3)})


SOME_CALLS = st.lists(
    st.builds(
        lambda make, *numbers: make(*numbers),
        st.sampled_from([dynamic_inner, optional_input, add_sub, twice_bytes]),
        st.integers(1, 6),
        st.integers(0, 4),
        st.integers(0, 1 << 16),
    ),
    min_size=1,
    max_size=24,
)


@pytest.fixture(scope="module")
def alone(models: Path) -> dict[str, Reference]:
    """Each of these models on the runtime itself."""
    return {
        name: Reference(models / f"{name}.onnx")
        for name in ("dynamic_inner", "optional_input", "add_sub", "twice_bytes")
    }


def test_rows_never_mix(server: ServerProcess, calls: Any, alone: dict[str, Reference]) -> None:
    """All calls of an example are in flight together; each answer is the one that the call gets by itself."""
    before = {model: counts(calls, model) for model in alone}
    loop = asyncio.new_event_loop()

    async def opened() -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(server.grpc)

    channel = loop.run_until_complete(opened())

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(SOME_CALLS)
    def check(mix: list[Call]) -> None:
        async def all_at_once() -> list[Any]:
            infer = stub(channel).ModelInfer
            return await asyncio.gather(*(infer(request(*call), timeout=SECONDS) for call in mix))

        for call, response in zip(mix, loop.run_until_complete(all_at_once()), strict=True):
            assert_equal(answer_of(response), alone[call.model](call.tensors))

    try:
        check()
    finally:
        loop.run_until_complete(channel.close())
        loop.close()
    for model, earlier in before.items():
        formed = counts(calls, model).since(earlier)
        assert_consistent(formed, 16)
        if model == "optional_input":  # its scale has no rows
            assert formed.runs == formed.answered
        else:
            assert formed.runs < formed.answered, f"no two requests of {model} ever met"
