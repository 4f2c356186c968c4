"""Tensors in shared memory, and classes, as unmodified clients of Triton ask for them."""

import base64
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, serialize_byte_tensor
from tritonclient.utils import shared_memory as shm

from e2e.clients import SECONDS, given
from server_process import ServerProcess

Serve = Callable[..., ServerProcess]
Repository = Callable[..., Path]
A = np.arange(16, dtype=np.int32).reshape(1, 16)
B = np.full((1, 16), 3, np.int32)
BYTES = A.nbytes


@pytest.fixture
def client(serve: Serve, repository: Repository, models: Path) -> Iterator[triton.InferenceServerClient]:
    """Of a server that allows shared memory; at its end the pool is empty."""
    made = repository(
        add_sub=models / "add_sub.onnx",
        dynamic_inner=models / "dynamic_inner.onnx",
        strings=models / "twice_bytes.onnx",
        mlp=models / "mlp.onnx",
    )
    (made / "mlp/config.pbtxt").write_text(
        'max_batch_size: 8\noutput { name: "logits" label_filename: "digits.txt" }\n'
    )
    (made / "mlp/digits.txt").write_text("zero\none\ntwo\n\nfour\n")
    server = serve(made, "--allow-client-shm", "--max-shm-regions", "3")
    with triton.InferenceServerClient(server.grpc) as opened:
        yield opened
    assert server.stop() == 0
    assert "0 bytes in 0 blocks in use" in server.output()


@pytest.fixture
def region() -> Iterator[Callable[[str, int], shm.SharedMemoryRegion]]:
    """Makes regions of shared memory that are gone after the test. Their keys are /NAME_PID."""
    made: list[shm.SharedMemoryRegion] = []

    def make(name: str, size: int) -> shm.SharedMemoryRegion:
        made.append(shm.create_shared_memory_region(name, key_of(name), size, create_only=True))
        return made[-1]

    yield make
    for each in made:
        shm.destroy_shared_memory_region(each)


def key_of(name: str) -> str:
    return f"/headrace_e2e_{name}_{os.getpid()}"


def placed(name: str, array: np.ndarray, region: str, size: int, offset: int = 0) -> triton.InferInput:
    given_there = triton.InferInput(name, list(array.shape), "BYTES" if array.dtype == np.object_ else "INT32")
    given_there.set_shared_memory(region, size, offset)
    return given_there


def wanted(name: str, region: str, size: int, offset: int = 0) -> triton.InferRequestedOutput:
    there = triton.InferRequestedOutput(name)
    there.set_shared_memory(region, size, offset)
    return there


Region = Callable[[str, int], shm.SharedMemoryRegion]


def test_inputs_and_outputs_lie_in_shared_memory(client: triton.InferenceServerClient, region: Region) -> None:
    assert "system_shared_memory" in client.get_server_metadata().extensions
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()  # as Triton's own examples begin
    source, sink = region("in", 2 * BYTES), region("out", 2 * BYTES)
    shm.set_shared_memory_region(source, [A, B])
    client.register_system_shared_memory("in", key_of("in"), 2 * BYTES)
    client.register_system_shared_memory("out", key_of("out"), 2 * BYTES)
    status = client.get_system_shared_memory_status()
    assert {name: (row.key, row.offset, row.byte_size) for name, row in status.regions.items()} == {
        "in": (key_of("in"), 0, 2 * BYTES),
        "out": (key_of("out"), 0, 2 * BYTES),
    }
    assert list(client.get_system_shared_memory_status("in").regions) == ["in"]

    answer = client.infer(
        "add_sub",
        [placed("a", A, "in", BYTES), placed("b", B, "in", BYTES, BYTES)],
        outputs=[wanted("sum", "out", BYTES), wanted("difference", "out", BYTES, BYTES)],
    )
    for name, offset, expected in (("sum", 0, A + B), ("difference", BYTES, A - B)):
        told = answer.get_output(name)
        assert (told.datatype, list(told.shape)) == ("INT32", [1, 16])
        assert told.parameters["shared_memory_region"].string_param == "out"
        assert told.parameters["shared_memory_byte_size"].int64_param == BYTES
        assert told.parameters["shared_memory_offset"].int64_param == offset
        assert np.array_equal(shm.get_contents_as_numpy(sink, np.int32, [1, 16], offset), expected)
    assert list(answer.get_response().raw_output_contents) == [b"", b""]

    # One of each kind: its raw contents are those of the other input alone.
    mixed = client.infer(
        "add_sub",
        [placed("a", A, "in", BYTES), given("b", B)],
        outputs=[wanted("sum", "out", 2 * BYTES), triton.InferRequestedOutput("difference")],
    )
    assert np.array_equal(mixed.as_numpy("difference"), A - B)
    assert mixed.get_output("sum").parameters["shared_memory_byte_size"].int64_param == BYTES

    client.unregister_system_shared_memory("in")
    with pytest.raises(InferenceServerException, match="region 'in' is not registered") as raised:
        client.infer("add_sub", [placed("a", A, "in", BYTES), given("b", B)])
    assert raised.value.status() == "StatusCode.NOT_FOUND"
    client.unregister_system_shared_memory()
    assert not client.get_system_shared_memory_status().regions


def test_strings_and_large_tensors(client: triton.InferenceServerClient, region: Region) -> None:
    words = np.array([b"", "Grüße".encode(), b"x" * 300], np.object_)
    packed = serialize_byte_tensor(words)
    size = len(packed.item())
    source, sink = region("in", 32 << 20), region("out", 64 << 20)
    client.register_system_shared_memory("in", key_of("in"), 32 << 20)
    client.register_system_shared_memory("out", key_of("out"), 64 << 20)
    shm.set_shared_memory_region(source, [packed])
    metadata = client.get_model_metadata("strings")
    shape = [1 if dim < 0 else dim for dim in metadata.inputs[0].shape]
    one = triton.InferInput(metadata.inputs[0].name, shape, "BYTES")
    count = int(np.prod(shape))
    source_words = serialize_byte_tensor(np.array([b"word"] * count, np.object_))
    shm.set_shared_memory_region(source, [source_words])
    one.set_shared_memory("in", len(source_words.item()))
    told = client.infer("strings", [one], outputs=[wanted(metadata.outputs[0].name, "out", 1 << 20)])
    output = told.get_output(metadata.outputs[0].name)
    found = shm.get_contents_as_numpy(sink, np.object_, list(output.shape))
    assert set(found.reshape(-1)) == {b"word"}
    assert size > 300

    large = np.random.default_rng(5).random((1, 1 << 20, 4), dtype=np.float32)  # 16 MiB
    shm.set_shared_memory_region(source, [large])
    there = triton.InferInput("x", list(large.shape), "FP32")
    there.set_shared_memory("in", large.nbytes)
    client.infer("dynamic_inner", [there], outputs=[wanted("double", "out", large.nbytes)])
    assert np.array_equal(shm.get_contents_as_numpy(sink, np.float32, large.shape), large + large)


def refused(code: str, words: str, call: Callable[[], object]) -> None:
    with pytest.raises(InferenceServerException, match=words) as raised:
        call()
    assert raised.value.status() == f"StatusCode.{code}"


def test_refusals_name_the_region_and_the_sizes(client: triton.InferenceServerClient, region: Region) -> None:
    region("in", 100)
    register = client.register_system_shared_memory
    for key in ("/../../etc/passwd", "/etc/passwd", "..", "/a/b", "/sem.x", "/" + "k" * 300):
        refused("INVALID_ARGUMENT", "'in': .*key", lambda key=key: register("in", key, 100))  # type: ignore[misc]
    refused("NOT_FOUND", "no shared memory object", lambda: register("in", "/headrace_e2e_nothing", 1))
    refused("INVALID_ARGUMENT", "has 100 bytes", lambda: register("in", key_of("in"), 101))
    refused("INVALID_ARGUMENT", "has 100 bytes", lambda: register("in", key_of("in"), 1, 100))
    refused("INVALID_ARGUMENT", "together", lambda: register("in", key_of("in"), 1, 2**64 - 1))
    register("in", key_of("in"), 64)
    refused("ALREADY_EXISTS", "region 'in' already exists", lambda: register("in", key_of("in"), 64))
    register("2", key_of("in"), 64)
    register("3", key_of("in"), 64)
    refused("RESOURCE_EXHAUSTED", "--max-shm-regions", lambda: register("4", key_of("in"), 64))
    refused(
        "UNAVAILABLE",
        "CUDA is not there",
        lambda: client.register_cuda_shared_memory("c", base64.b64encode(b"handle"), 0, 64),
    )

    def ask(a: triton.InferInput, *outputs: triton.InferRequestedOutput) -> Callable[[], object]:
        return lambda: client.infer("add_sub", [a, given("b", B)], outputs=list(outputs) or None)

    refused("INVALID_ARGUMENT", "input 'a'.* has 63 bytes; .* takes 64", ask(placed("a", A, "in", 63)))
    refused("INVALID_ARGUMENT", "input 'a': offset 1 and byte size 64 .* 64 bytes", ask(placed("a", A, "in", 64, 1)))
    refused("INVALID_ARGUMENT", "'sum' takes 64 bytes; .* is 63", ask(given("a", A), wanted("sum", "in", 63)))
    refused("NOT_FOUND", "output 'sum': .* 'no'", ask(given("a", A), wanted("sum", "no", 64)))
    assert np.array_equal(client.infer("add_sub", [given("a", A), given("b", B)]).as_numpy("sum"), A + B)


def test_a_client_may_cut_its_object_at_any_time(client: triton.InferenceServerClient, region: Region) -> None:
    """An error or an answer, and a server that lives: nothing of it is mapped there."""
    size = 4 << 20
    region("in", size)
    client.register_system_shared_memory("in", key_of("in"), size)
    there = triton.InferInput("x", [1, size // 16, 4], "FP32")
    there.set_shared_memory("in", size)
    stop = threading.Event()

    def cut() -> None:
        path = f"/dev/shm{key_of('in')}"
        while not stop.is_set():
            os.truncate(path, 100)
            os.truncate(path, size)

    cutter = threading.Thread(target=cut)
    cutter.start()
    answers: set[str] = set()
    try:
        for _ in range(60):
            try:
                client.infer("dynamic_inner", [there], outputs=[wanted("double", "in", size)])
                answers.add("OK")
            except InferenceServerException as error:
                answers.add(f"{error.status()} {'has become smaller' in error.message()}")
    finally:
        stop.set()
        cutter.join()
    assert "StatusCode.INVALID_ARGUMENT True" in answers
    assert answers <= {"OK", "StatusCode.INVALID_ARGUMENT True"}
    assert client.is_server_live()


def test_off_it_is_refused_and_the_flag_is_named(serve: Serve, repository: Repository, models: Path) -> None:
    server = serve(repository(add_sub=models / "add_sub.onnx"))
    with triton.InferenceServerClient(server.grpc) as client:
        extensions = client.get_server_metadata().extensions
        assert "system_shared_memory" not in extensions
        assert "classification" in extensions
        calls: list[Callable[[], object]] = [
            lambda: client.register_system_shared_memory("in", "/x", 1),
            client.unregister_system_shared_memory,
            client.get_system_shared_memory_status,
            lambda: client.infer("add_sub", [placed("a", A, "in", BYTES), given("b", B)]),
            lambda: client.infer("add_sub", [given("a", A), given("b", B)], outputs=[wanted("sum", "in", BYTES)]),
        ]
        for call in calls:
            refused("PERMISSION_DENIED", "--allow-client-shm", call)


def test_classes_have_values_places_and_labels(client: triton.InferenceServerClient) -> None:
    x = np.random.default_rng(3).normal(size=(3, 64)).astype(np.float32)
    logits = client.infer("mlp", [given("x", x)]).as_numpy("logits")
    names = ["zero", "one", "two", "", "four"]
    expected = [
        [
            f"{row[place]:f}:{place}" + (f":{names[place]}" if place < 5 and names[place] else "")
            for place in np.argsort(-row, kind="stable")[:4]
        ]
        for row in logits
    ]
    answer = client.infer("mlp", [given("x", x)], outputs=[triton.InferRequestedOutput("logits", class_count=4)])
    told = answer.get_output("logits")
    assert (told.datatype, list(told.shape)) == ("BYTES", [3, 4])
    found = [[word.decode() for word in row] for row in answer.as_numpy("logits")]
    assert [[word.split(":")[1:] for word in row] for row in found] == [
        [word.split(":")[1:] for word in row] for row in expected
    ]
    values = [[float(word.split(":")[0]) for word in row] for row in found]
    assert np.allclose(values, [[float(word.split(":")[0]) for word in row] for row in expected], atol=2e-6)
    many = client.infer("mlp", [given("x", x)], outputs=[triton.InferRequestedOutput("logits", class_count=99)])
    assert list(many.get_output("logits").shape) == [3, 10]
    refused(
        "INVALID_ARGUMENT",
        "'classification'",
        lambda: client.infer(
            "strings",
            [given(client.get_model_metadata("strings").inputs[0].name, words_for(client))],
            outputs=[triton.InferRequestedOutput(client.get_model_metadata("strings").outputs[0].name, class_count=1)],
        ),
    )


def words_for(client: triton.InferenceServerClient) -> "np.ndarray":
    shape = [1 if dim < 0 else dim for dim in client.get_model_metadata("strings").inputs[0].shape]
    return np.full(shape, b"w", np.object_)


def test_classes_of_a_batch_that_others_share(client: triton.InferenceServerClient) -> None:
    """Each request of a batch gets what it asked for: tensors, classes, shared memory."""
    rows = np.random.default_rng(4).normal(size=(40, 64)).astype(np.float32)
    logits = client.infer("mlp", [given("x", rows[:8])]).as_numpy("logits")
    done: list[object] = []
    called = threading.Event()

    def note(result: object, error: object) -> None:
        done.append(error or result)
        if len(done) == 40:
            called.set()

    for i in range(40):
        outputs = [triton.InferRequestedOutput("logits", class_count=1)] if i % 2 else None
        client.async_infer("mlp", [given("x", rows[i % 8 : i % 8 + 1])], note, outputs=outputs, request_id=str(i))
    assert called.wait(SECONDS)
    for result in done:
        assert isinstance(result, triton.InferResult), result
        number = int(result.get_response().id)
        found, row = result.as_numpy("logits"), logits[number % 8]
        if number % 2:
            assert int(found[0, 0].decode().split(":")[1]) == int(np.argmax(row))
        else:
            assert np.allclose(found[0], row, atol=1e-5)
