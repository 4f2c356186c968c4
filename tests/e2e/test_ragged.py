"""Requests of unlike lengths share a run where the model says how and a probe agrees; answers are as alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from e2e.clients import Array, Reference, answer_of, assert_close, request, stub
from e2e.test_batches import counts, gathered
from server_process import ServerProcess

BATCHED = "max_batch_size: 16 dynamic_batching { }"
ALLOWED = BATCHED + ' input { name: "x" data_type: TYPE_FP32 dims: [-1, 4] allow_ragged_batch: true }'
MODELS = {
    "masked": ("masked_mean", BATCHED),
    "allowed": ("dynamic_inner", ALLOWED),
    "silent": ("dynamic_inner", BATCHED),
    "slow": ("slow", "max_batch_size: 1"),
}


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One lane, so that what comes while it is busy has to meet. At the end the pool is empty."""
    repository = tmp_path_factory.mktemp("ragged")
    for name, (model, config) in MODELS.items():
        version = repository / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(models / f"{model}.onnx", version / "model.onnx")
        (repository / name / "config.pbtxt").write_text(config)
    with ServerProcess(repository, "--lanes", "1", "--compute-threads", "1", "--scheduler-learning", "off") as running:
        yield running
        assert running.stop() == 0
        assert "0 bytes in 0 blocks in use" in running.output()


@pytest.fixture(scope="module")
def calls(server: ServerProcess) -> Iterator[Any]:
    """The protocol's calls by plain grpcio."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield stub(channel)


def tokens(length: int) -> dict[str, Array]:
    """One request of the encoder."""
    ids = np.random.default_rng(length).integers(0, 64, (1, length))
    return {"ids": ids, "attention_mask": np.ones_like(ids)}


def rows(length: int) -> dict[str, Array]:
    """One request of two rows."""
    return {"x": np.random.default_rng(length).normal(0, 1, (2, length, 4)).astype(np.float32)}


@pytest.mark.parametrize(
    ("model", "lengths", "runs"),
    [
        ("masked", (17, 20, 18, 19, 17), {5: 1}),
        ("masked", (17, 20, 40, 33, 1), {2: 2, 1: 1}),
        ("allowed", (13, 14, 13), {6: 1}),
        ("silent", (13, 14, 13), {4: 1, 2: 1}),
    ],
)
def test_lengths_share_runs(
    *, model: str, lengths: tuple[int, ...], runs: dict[int, int], server: ServerProcess, calls: Any, models: Path
) -> None:
    file = MODELS[model][0]
    given = [tokens(length) if file == "masked_mean" else rows(length) for length in lengths]
    before = counts(calls, model)
    sent = gathered(server, calls, [request(model, tensors) for tensors in given])
    told = [answer_of(future.result(timeout=30)) for future in sent]
    assert counts(calls, model).since(before).sizes == runs
    reference = Reference(models / f"{file}.onnx")
    for tensors, answer in zip(given, told, strict=True):
        assert_close(answer, reference(tensors))


def test_what_was_found_is_told(server: ServerProcess) -> None:
    lines = {name: next(line for line in server.output().splitlines() if f"model '{name}'" in line) for name in MODELS}
    assert "padded with zeros: a probe found the same answers" in lines["masked"]
    assert "padded with zeros: a probe found the same answers" in lines["allowed"]
    assert "unlike lengths" not in lines["silent"] + lines["slow"]
