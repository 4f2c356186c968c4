"""Models loaded and unloaded on request, by tritonclient as it is: what is served meanwhile, and what failing costs."""

import asyncio
import json
import os
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from e2e.clients import SECONDS, Array, given, request, stub, typed_request
from server_process import ServerProcess, server_environment

EXPLICIT = ("--model-control-mode", "explicit")
X = np.arange(3, dtype=np.float32).reshape(1, 3)


def times(factor: float) -> bytes:
    """y = x * factor, FP32[N, 3]."""
    shape: list[str | int | None] = ["batch", 3]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    written: bytes = model.SerializeToString()
    return written


def put(folder: Path, model: str, factor: float, version: int = 1, config: str | None = None) -> None:
    """Writes a model's version whole: a server never sees half of it."""
    target = folder / model / str(version)
    target.mkdir(parents=True, exist_ok=True)
    (target / "new").write_bytes(times(factor))
    (target / "new").rename(target / "model.onnx")
    if config is not None:
        (folder / model / "config.pbtxt").write_text(config)


class Client(Protocol):
    """The calls of tritonclient's, whichever of the two it is."""

    def __getattr__(self, name: str) -> Callable[..., Any]: ...


class _Aio:
    """tritonclient.grpc.aio with its calls made to wait."""

    def __init__(self, target: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._made(target))

    @staticmethod
    async def _made(target: str) -> Any:
        return triton_aio.InferenceServerClient(target)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *args, **more: self._loop.run_until_complete(method(*args, **more))

    def end(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=["tritonclient.grpc", "tritonclient.grpc.aio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Client]]:
    """connect(target): a client of one of the two kinds."""
    made: list[Any] = []

    def make(target: str) -> Client:
        made.append(_Aio(target) if request.param.endswith("aio") else triton.InferenceServerClient(target))
        found: Client = made[-1]
        return found

    yield make
    for client in made:
        (client.end if isinstance(client, _Aio) else client.close)()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    repository = tmp_path / "repository"
    put(repository, "two", 2)
    put(repository, "three", 3)
    return repository


def rows(client: Any) -> dict[str, tuple[str, str, str]]:
    """The index: name -> (version, state, reason), for models of one row."""
    return {row.name: (row.version, row.state, row.reason) for row in client.get_model_repository_index().models}


def until(condition: Callable[[], bool]) -> None:
    """Asks again and again, for a minute at most."""
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit


def factor(client: Client, model: str, version: str = "") -> float:
    """What the model multiplies with."""
    answer: Array = client.infer(model, [given("x", X)], model_version=version).as_numpy("y")
    return float(answer[0, 1])


def refused(work: Callable[[], Any]) -> tuple[str, str]:
    """(status, message) of a call that must fail."""
    with pytest.raises(InferenceServerException) as raised:
        work()
    return str(raised.value.status()).removeprefix("StatusCode."), raised.value.message()


Serve = Callable[..., ServerProcess]
Connect = Callable[[str], Client]


def test_explicit_mode_starts_with_what_is_named(folder: Path, serve: Serve, connect: Connect) -> None:
    client = connect(serve(folder, *EXPLICIT).grpc)
    assert client.is_server_ready()
    assert rows(client) == dict.fromkeys(("two", "three"), ("", "UNAVAILABLE", "it is not loaded"))
    server = serve(folder, *EXPLICIT, "--load-model", "two")
    client = connect(server.grpc)
    assert rows(client)["two"] == ("1", "READY", "")
    with grpc.insecure_channel(server.grpc) as channel:
        index = stub(channel).RepositoryIndex
        only = index(service_pb2.RepositoryIndexRequest(ready=True), timeout=SECONDS)
        assert [(row.name, row.version) for row in only.models] == [("two", "1")]
        with pytest.raises(grpc.RpcError, match="repository_name must be empty"):
            index(service_pb2.RepositoryIndexRequest(repository_name="other"), timeout=SECONDS)
    assert not client.is_model_ready("three")
    client = connect(serve(folder, *EXPLICIT, "--load-model=*").grpc)
    assert factor(client, "three") == 3


def test_load_and_unload(folder: Path, serve: Serve, connect: Connect) -> None:
    client = connect(serve(folder, *EXPLICIT).grpc)
    status, message = refused(lambda: factor(client, "two"))
    assert (status, message) == ("NOT_FOUND", "model 'two' is not in the model repository")
    client.load_model("two")
    assert client.is_model_ready("two")
    assert client.get_model_metadata("two").versions == ["1"]
    assert factor(client, "two") == 2
    client.unload_model("two")
    assert not client.is_model_ready("two")
    assert rows(client)["two"] == ("1", "UNAVAILABLE", "unloaded")
    assert refused(lambda: factor(client, "two")) == ("UNAVAILABLE", "model 'two' is not available: unloaded")
    client.unload_model("two")  # it is not loaded: nothing to do
    client.unload_model("two", unload_dependents=True)
    client.unload_model("unknown")
    client.load_model("two")
    assert factor(client, "two") == 2


def test_a_load_of_what_is_loaded_brings_what_lies_there_now(folder: Path, serve: Serve, connect: Connect) -> None:
    put(folder, "two", 20, version=2)
    client = connect(serve(folder, *EXPLICIT, "--load-model", "two").grpc)
    assert factor(client, "two") == 20
    put(folder, "two", 200, version=3, config="version_policy { latest { num_versions: 2 } }")
    client.load_model("two")
    assert factor(client, "two") == 200
    assert factor(client, "two", "2") == 20
    assert sorted(client.get_model_metadata("two").versions) == ["2", "3"]
    assert refused(lambda: factor(client, "two", "1"))[0] == "NOT_FOUND"


@pytest.mark.parametrize("way", ["file", "config", "version"])
def test_a_load_that_fails_leaves_what_serves(folder: Path, serve: Serve, connect: Connect, way: str) -> None:
    client = connect(serve(folder, *EXPLICIT, "--load-model", "two").grpc)
    if way == "file":
        (folder / "two/1/model.onnx").write_bytes(b"no model")
        words = "model.onnx"
    elif way == "config":
        (folder / "two/config.pbtxt").write_text("max_batch_size: many")
        words = "cannot be read"
    else:
        put(folder, "two", 4, version=2, config="version_policy { specific { versions: [2, 7] } }")
        words = "names version 7"
    status, message = refused(lambda: client.load_model("two"))
    assert status == "INVALID_ARGUMENT"
    assert "model 'two' could not be loaded" in message
    assert words in message
    assert factor(client, "two") == 2
    index = client.get_model_repository_index().models
    states = {(row.name, row.version): (row.state, row.reason) for row in index}
    if way == "version":
        assert states["two", "7"][0] == "UNAVAILABLE"
        assert words in states["two", "7"][1]
        assert states["two", "1"] == ("READY", "")
    else:
        assert states["two", "1"][0] == "READY"
        assert words in states["two", "1"][1]
    assert client.is_model_ready("two")


def test_a_model_that_is_not_there_or_broken_from_the_start(folder: Path, serve: Serve, connect: Connect) -> None:
    (folder / "broken/1").mkdir(parents=True)
    (folder / "broken/1/model.onnx").write_bytes(b"no model")
    client = connect(serve(folder, *EXPLICIT).grpc)
    for name in ("nothing", "../two", "", "a/b"):
        assert refused(partial(client.load_model, name))[0] in ("NOT_FOUND", "INVALID_ARGUMENT")
    assert refused(lambda: client.load_model("broken"))[0] == "INVALID_ARGUMENT"
    assert rows(client)["broken"][1] == "UNAVAILABLE"
    assert "nothing" not in rows(client)


def test_a_config_takes_the_place_of_the_file(folder: Path, serve: Serve, connect: Connect) -> None:
    put(folder, "two", 20, version=2, config="max_batch_size: 4")
    client = connect(serve(folder, *EXPLICIT).grpc)
    client.load_model(
        "two", config=json.dumps({"max_batch_size": 16, "version_policy": {"specific": {"versions": [1]}}})
    )
    assert client.get_model_config("two").config.max_batch_size == 16
    assert factor(client, "two") == 2
    client.load_model("two", config=json.dumps({"backend": "onnxruntime", "max_batch_size": 0, "name": "two"}))
    assert client.get_model_config("two").config.max_batch_size == 0
    assert factor(client, "two") == 20
    status, message = refused(lambda: client.load_model("two", config='{"max_batch_size": "many"}'))
    assert status == "INVALID_ARGUMENT"
    assert "the JSON cannot be read" in message
    assert client.get_model_config("two").config.max_batch_size == 0
    client.load_model("two")  # the file again
    assert client.get_model_config("two").config.max_batch_size == 4


def test_files_with_the_request(folder: Path, connect: Connect, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    environment = {**server_environment(), "TMPDIR": str(private)}
    with ServerProcess(folder, *EXPLICIT, "--allow-model-upload", environment=environment) as server:
        check_files(server, connect(server.grpc), private)


def check_files(server: ServerProcess, client: Client, private: Path) -> None:
    config = json.dumps({"backend": "onnxruntime"})
    client.load_model("new", config=config, files={"file:1/model.onnx": times(7)})
    assert factor(client, "new") == 7
    client.load_model("two", config=config, files={"file:5/model.onnx": times(8), "file:labels.txt": b"a"})
    assert factor(client, "two", "5") == 8
    assert rows(client)["two"] == ("5", "READY", "")
    (kept,) = private.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    assert sorted(file.parent.parent.name for file in kept.glob("*/*/*/model.onnx")) == ["new", "two"]

    client.load_model("two")  # from the repository again
    assert factor(client, "two") == 2
    client.unload_model("new")
    assert "new" not in rows(client)
    assert list(kept.glob("*/*/*/model.onnx")) == []

    client.load_model("new", config=config, files={"file:1/model.onnx": times(7)})
    status, _ = refused(lambda: client.load_model("new", config=config, files={"file:1/model.onnx": b"no model"}))
    assert status == "INVALID_ARGUMENT"
    assert factor(client, "new") == 7
    assert len(list(kept.glob("*/*/*/model.onnx"))) == 1
    assert server.stop() == 0
    assert list(private.iterdir()) == []


@pytest.mark.parametrize(
    "path",
    ["../two/1/model.onnx", "1/../../x", "/etc/x", "1//x", "", ".", "..", "1/.hidden", "1/a\0b", "1/" + "a/" * 9 + "x"],
)
def test_no_file_leaves_the_models_folder(shared: ServerProcess, path: str) -> None:
    with triton.InferenceServerClient(shared.grpc) as client:
        files = {f"file:{path}": b"x", "file:1/model.onnx": times(1)}
        status, message = refused(lambda: client.load_model("new", config="{}", files=files))
        assert status == "INVALID_ARGUMENT"
        assert "is no path below its folder" in message


def test_files_are_bounded_and_need_a_config(shared: ServerProcess) -> None:
    with triton.InferenceServerClient(shared.grpc) as client:
        large = {"file:1/model.onnx": bytes(70_000)}
        status, message = refused(lambda: client.load_model("new", config="{}", files=large))
        assert status == "RESOURCE_EXHAUSTED"
        assert "--max-upload-bytes" in message
        both = {"file:1/x": b"", "file:1/x/y": b""}
        assert refused(lambda: client.load_model("new", config="{}", files=both))[0] == "INVALID_ARGUMENT"
        bad_name = {"file:1/model.onnx": times(1)}
        assert refused(lambda: client.load_model("../new", config="{}", files=bad_name))[0] == "INVALID_ARGUMENT"
        with grpc.insecure_channel(shared.grpc) as channel:
            message_ = service_pb2.RepositoryModelLoadRequest(model_name="new")
            message_.parameters["file:1/model.onnx"].bytes_param = b"x"
            with pytest.raises(grpc.RpcError) as raised:
                stub(channel).RepositoryModelLoad(message_, timeout=SECONDS)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "'config' must be there" in raised.value.details()
        # Nothing of it was kept: a model that fits is taken.
        client.load_model("fits", config="{}", files={"file:1/model.onnx": times(1)})
        client.unload_model("fits")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("shared")
    put(folder, "two", 2)
    flags = (*EXPLICIT, "--load-model", "two", "--allow-model-upload", "--max-upload-bytes", "64KiB")
    with ServerProcess(folder, *flags) as server:
        yield server


def test_without_the_mode_or_the_flag_nothing_is_taken(folder: Path, serve: Serve) -> None:
    with triton.InferenceServerClient(serve(folder).grpc) as client:
        for work in (client.load_model, client.unload_model):
            status, message = refused(partial(work, "two"))
            assert status == "UNAVAILABLE"
            assert "--model-control-mode explicit" in message
        assert rows(client) == {"two": ("1", "READY", ""), "three": ("1", "READY", "")}
    with triton.InferenceServerClient(serve(folder, *EXPLICIT).grpc) as client:
        status, message = refused(lambda: client.load_model("n", config="{}", files={"file:1/model.onnx": b"x"}))
        assert status == "PERMISSION_DENIED"
        assert "--allow-model-upload" in message


def test_concurrent_loads_of_one_model_and_of_several(folder: Path, serve: Serve) -> None:
    server = serve(folder, *EXPLICIT)
    with triton.InferenceServerClient(server.grpc) as client, ThreadPoolExecutor(24) as pool:
        works = [pool.submit(client.load_model, name) for name in ["two", "three"] * 10]
        works += [pool.submit(client.unload_model, "two") for _ in range(3)]
        for work in works:
            work.result(SECONDS)
        client.load_model("two")
        assert (factor(client, "two"), factor(client, "three")) == (2, 3)
    loads = server.output().count("model 'three' version 1 loaded")
    assert 1 <= loads < 10, "loads that wait for the same are one"


class Load:
    """Callers that ask one model again and again, by small requests and by ones that a worker decodes."""

    def __init__(self, target: str, model: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self._infer = stub(self._channel).ModelInfer
        self._model = model
        self._over = threading.Event()
        self.failures: list[str] = []
        self.seen: list[float] = []
        large = np.tile(X, (30_000, 1))
        small = request(model, {"x": X})
        messages = [small, small, small, typed_request(model, {"x": ("FP32", large)})]
        self._threads = [threading.Thread(target=self._ask, args=(message,)) for message in messages]

    def _ask(self, message: Any) -> None:
        while not self._over.is_set():
            try:
                raw = self._infer(message, timeout=SECONDS).raw_output_contents[0]
                self.seen.append(float(np.frombuffer(raw, np.float32, 3)[1]))
            except grpc.RpcError as error:
                self.failures.append(f"{error.code()} {error.details()}")

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()


CONFIG = "max_batch_size: 65536 dynamic_batching { max_queue_delay_microseconds: 3000 }"


def test_no_request_is_lost_while_a_model_is_loaded_again(folder: Path, serve: Serve) -> None:
    put(folder, "two", 2, config=CONFIG)
    server = serve(folder, *EXPLICIT, "--load-model", "two", "--io-threads", "2")
    with triton.InferenceServerClient(server.grpc) as client, Load(server.grpc, "two") as load:
        for number in range(3, 23):
            put(folder, "two", number)
            client.load_model("two")
            assert factor(client, "two") == number, "what is asked after the load gets the new model"
    assert load.failures == []
    assert len(load.seen) > 100
    assert set(load.seen) <= {float(number) for number in range(2, 23)}


def test_an_unload_serves_what_had_come(folder: Path, serve: Serve) -> None:
    """A batch waits for its delay; the unload lets it have that, and the requests their answers."""
    put(
        folder,
        "two",
        2,
        config="max_batch_size: 64 dynamic_batching { preferred_batch_size: 64 max_queue_delay_microseconds: 1500000 }",
    )
    server = serve(folder, *EXPLICIT, "--load-model", "two")
    with triton.InferenceServerClient(server.grpc) as client, ThreadPoolExecutor(8) as pool:
        answers: queue.Queue[Any] = queue.Queue()
        for _ in range(4):
            client.async_infer("two", [given("x", X)], lambda result, error: answers.put(error or result.as_numpy("y")))
        assert client.is_server_live()  # behind them on one connection
        unload = pool.submit(client.unload_model, "two")
        until(lambda: rows(client)["two"][1] != "READY")
        assert rows(client)["two"][1:] == ("UNLOADING", "it is being unloaded")
        assert refused(lambda: factor(client, "two")) == (
            "UNAVAILABLE",
            "model 'two' is not available: it is being unloaded",
        )
        assert not unload.done()
        assert [answers.get(timeout=SECONDS).tolist() for _ in range(4)] == [(2 * X).tolist()] * 4
        unload.result(SECONDS)


def resident(server: ServerProcess) -> int:
    """Bytes of RSS."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_memory_comes_back_with_an_unload(magika_model: Path, repository: Callable[..., Path], serve: Serve) -> None:
    """Fifty times a real model: after the tenth the process grows by no more than 5 %. Single readings differ, because
    threads give back what they hold in their own time; so medians are compared, and none may be far off. What its runs
    needed (100 MiB and more, when what a batch costs is measured) is gone with it too, not when the server next rests.
    """
    server = serve(repository(magika=magika_model), *EXPLICIT)
    seen: list[int] = []
    empty = resident(server)
    with triton.InferenceServerClient(server.grpc) as client:
        data = given("bytes", np.zeros((4, 2048), np.int32))
        for _ in range(50):
            client.load_model("magika")
            client.infer("magika", [data])
            client.unload_model("magika")
            seen.append(resident(server))
    before, after = statistics.median(seen[5:15]), statistics.median(seen[40:])
    assert after <= 1.05 * before, [size >> 20 for size in seen]
    assert max(seen[10:]) <= 1.3 * before, [size >> 20 for size in seen]
    assert before <= empty + (64 << 20), [size >> 20 for size in seen]
    assert server.stop() == 0
    assert "memory pool at the end: 0 bytes in 0 blocks" in server.output()
