"""Named resources in a real process: who waits for them, who does not, and what can never be had."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from e2e.checks import check_ends_clean, when_running
from e2e.h2_peer import ENDLESS, INFER, Peer
from e2e.test_scheduler import page
from server_process import ServerProcess

ALONE = "max_batch_size: 1 dynamic_batching {} "
CAMERA = 'instance_group { rate_limiter { resources { name: "Camera" global: true count: %d } } }'
ON = ("--rate-limit", "execution_count")


@pytest.fixture
def repository_of(models: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(**configs: str) -> Path:
        for name, config in configs.items():
            version = tmp_path / "repository" / name / "1"
            version.mkdir(parents=True)
            shutil.copyfile(models / "slow.onnx", version / "model.onnx")
            version.with_name("config.pbtxt").write_text(ALONE + config)
        return tmp_path / "repository"

    return make


def ask(model: str, steps: int) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="iterations", datatype="INT64", shape=[1, 1])
    request.raw_input_contents.append(np.array([[steps]], dtype=np.int64).tobytes())
    return bytes(request.SerializeToString())


def shown(server: ServerProcess, model: str) -> Any:
    return page(server, f"/v2/models/{model}/scheduler")


def test_two_models_share_a_resource_of_one(
    repository_of: Callable[..., Path], serve: Callable[..., ServerProcess]
) -> None:
    least = (CAMERA % 1).replace("rate_limiter {", "rate_limiter { priority: 4")
    heavy = 'parameters { key: "weight" value { string_value: "2.5" } }'
    repository = repository_of(first=CAMERA % 1, second=least, free=heavy)
    server = serve(repository, "--lanes", "2", "--compute-threads", "1", *ON, "--rate-limit-resource", "camera:1")
    with Peer(server.grpc) as busy, Peer(server.grpc) as peer:
        running = busy.call(INFER, ask("first", ENDLESS))
        when_running(server.http, "first", 1)
        waiting = peer.call(INFER, ask("second", 1))
        # The other lane is free, and serves who does not need it, although it came later.
        for _ in range(3):
            assert peer.ask(INFER, ask("free", 1)).code == 0
        assert not peer.answers[waiting].over
        camera = {"name": "camera", "device": None, "server": 1, "of_a_batch": 1, "used": 1}
        assert shown(server, "second")["resources"] == [camera]
        assert when_running(server.http, "free", 0)["resources"] == []
        assert shown(server, "free")["weight"] == 2.5
        assert shown(server, "second")["weight"] == 0.25
        cores = shown(server, "second")["cores"]
        assert (cores["of_a_batch"], cores["used"]) == (1, 1)
        assert cores["server"] >= 2
        busy.reset(running)
        assert peer.wait(waiting).code == 0
    check_ends_clean(server)


def test_what_can_never_be_had_is_a_fault_of_the_load(
    repository_of: Callable[..., Path], serve: Callable[..., ServerProcess]
) -> None:
    server = serve(repository_of(greedy=CAMERA % 3, modest=CAMERA % 2), *ON, "--rate-limit-resource", "CAMERA:2")
    index = page_of_models(server)
    assert index["modest"] == ("READY", "")
    state, reason = index["greedy"]
    assert state == "UNAVAILABLE"
    assert "a batch needs 3 of the resource 'camera'" in reason
    assert "there are 2 (--rate-limit-resource camera:2)" in reason
    assert "lower the one or raise the other" in reason
    assert server.stop() == 0


def test_limiters_are_ignored_unless_they_are_asked_for(
    repository_of: Callable[..., Path], serve: Callable[..., ServerProcess]
) -> None:
    server = serve(repository_of(one=CAMERA % 3))
    assert shown(server, "one")["resources"] == []
    with Peer(server.grpc) as peer:
        assert peer.ask(INFER, ask("one", 1)).code == 0
    assert "it has no effect without --rate-limit execution_count" in server.output()
    check_ends_clean(server)


def page_of_models(server: ServerProcess) -> dict[str, tuple[str, str]]:
    """Model -> its state and the reason."""
    request = Request(f"http://{server.http}/v2/repository/index", data=b"{}", method="POST")
    with urlopen(request, timeout=30) as answer:
        return {row["name"]: (row["state"], row.get("reason", "")) for row in json.load(answer)}
