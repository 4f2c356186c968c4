"""ModelStreamInfer on a real process, by clients that others wrote: many requests in flight, errors that end nothing,
half-close, kill, a deadline, a drain, and a stream whose client does not read."""

import asyncio
import queue
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2

from e2e.checks import check_ends_clean
from e2e.clients import SECONDS, Array, answer_of, given, request, stub
from e2e.h2_peer import ENDLESS, INFER, LIVE, LONG, STREAM_INFER, Peer, add_sub, kill, message, slow
from server_process import ServerProcess

Serve = Callable[..., ServerProcess]
FINAL = "triton_final_response"


@pytest.fixture
def some_models(repository: Callable[..., Path], models: Path) -> Path:
    return repository(**{name: models / f"{name}.onnx" for name in ("add_sub", "slow")})


def pair(number: int) -> dict[str, Array]:
    """Inputs of add_sub that no other number has."""
    first = np.full((1, 16), number, np.int32)
    return {"a": first, "b": np.arange(16, dtype=np.int32).reshape(1, 16)}


def sum_in(response: Any) -> list[int]:
    return next(iter(answer_of(response).values())).reshape(-1).tolist()


def sum_of(number: int) -> list[int]:
    return (number + np.arange(16)).tolist()


def asked(number: int, **fields: Any) -> Any:
    return request("add_sub", pair(number), **fields)


def stream_answers(peer: Peer, stream: int) -> list[Any]:
    return [service_pb2.ModelStreamInferResponse.FromString(body) for body in peer.answers[stream].messages]


def wait_for_answers(peer: Peer, stream: int, count: int) -> list[Any]:
    deadline = time.monotonic() + LONG
    while len(peer.answers[stream].messages) < count:
        assert not peer.answers[stream].over, peer.answers[stream]
        peer.pump(deadline - time.monotonic())
    return stream_answers(peer, stream)


# --- Clients


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient_keeps_hundreds_in_flight(serve: Serve, some_models: Path, compression: str | None) -> None:
    server = serve(some_models)
    told: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(
            lambda result, error: told.put((result, error)), stream_timeout=SECONDS, compression_algorithm=compression
        )
        for number in range(400):
            inputs = [given(name, array) for name, array in pair(number).items()]
            client.async_stream_infer("add_sub", inputs, request_id=str(number))
        answers = [told.get(timeout=SECONDS) for _ in range(400)]
        client.stop_stream()
    assert [error for _, error in answers if error is not None] == []
    responses = {int(result.get_response().id): result.get_response() for result, _ in answers}
    assert sorted(responses) == list(range(400))
    assert all(sum_in(response) == sum_of(number) for number, response in responses.items())
    assert all(response.parameters[FINAL].bool_param for response in responses.values())
    check_ends_clean(server)


def test_tritonclient_aio_gets_its_answers_in_order(serve: Serve, some_models: Path) -> None:
    server = serve(some_models, "--lanes", "2")

    async def main() -> list[Any]:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            for number in range(200):
                inputs = [given(name, array) for name, array in pair(number).items()]
                yield {"model_name": "add_sub", "inputs": inputs, "enable_empty_final_response": True}

        async with triton_aio.InferenceServerClient(server.grpc) as client:
            found = []
            async for result, error in client.stream_infer(requests(), stream_timeout=SECONDS):
                assert error is None
                found.append(result.get_response())
            return found

    responses = asyncio.run(main())
    assert [sum_in(response) for response in responses] == [sum_of(number) for number in range(200)]
    assert all(response.parameters[FINAL].bool_param for response in responses)


def test_grpcio_gets_its_answers_in_order_and_ok_at_the_end(serve: Serve, some_models: Path) -> None:
    server = serve(some_models, "--lanes", "2")
    with grpc.insecure_channel(server.grpc) as channel:
        call = stub(channel).ModelStreamInfer((asked(number) for number in range(300)), timeout=SECONDS)
        assert [sum_in(answer.infer_response) for answer in call] == [sum_of(number) for number in range(300)]
        assert call.code() == grpc.StatusCode.OK
        empty = stub(channel).ModelStreamInfer(iter(()), timeout=SECONDS)
        assert list(empty) == []
        assert empty.code() == grpc.StatusCode.OK
    check_ends_clean(server)


def test_grpcio_aio_writes_and_reads_in_turn(serve: Serve, some_models: Path) -> None:
    server = serve(some_models)

    async def main() -> None:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            call = stub(channel).ModelStreamInfer(timeout=SECONDS)
            for number in range(50):
                await call.write(asked(number, id=str(number)))
                answer = await call.read()
                assert answer.infer_response.id == str(number)
                assert sum_in(answer.infer_response) == sum_of(number)
            await call.done_writing()
            assert await call.read() == grpc.aio.EOF
            assert await call.code() == grpc.StatusCode.OK

    asyncio.run(main())


def test_sequences_and_other_parameters_of_tritonclient(serve: Serve, some_models: Path) -> None:
    """As its examples send them; a model without sequences passes them over, and their order is kept."""
    server = serve(some_models, "--lanes", "2")
    told: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: told.put((result, error)), stream_timeout=SECONDS)
        for sequence in (1001, "a name"):
            for number in range(20):
                inputs = [given(name, array) for name, array in pair(number).items()]
                client.async_stream_infer(
                    "add_sub",
                    inputs,
                    request_id=f"{sequence}_{number}",
                    sequence_id=sequence,
                    sequence_start=number == 0,
                    sequence_end=number == 19,
                    priority=1,
                    timeout=60_000_000,
                    parameters={"of_my_own": "value"},
                )
        answers = [told.get(timeout=SECONDS) for _ in range(40)]
        client.stop_stream()
    assert [error for _, error in answers if error is not None] == []
    ids = [result.get_response().id for result, _ in answers]
    assert ids == [f"{sequence}_{number}" for sequence in (1001, "a name") for number in range(20)]


# --- Errors


def test_errors_answer_their_request_and_the_stream_goes_on(serve: Serve, some_models: Path) -> None:
    server = serve(some_models)
    bad = asked(1, id="wrong shape")
    bad.inputs[0].shape[1] = 17
    parameter = asked(1, id="wrong parameter")
    parameter.parameters["priority"].string_param = "high"
    wanted = {
        "wrong model": "model 'nobody' is not in the model repository",
        "wrong shape": "input 'a' of model 'add_sub'",
        "wrong parameter": "request parameter 'priority' must be an int64_param or a uint64_param",
    }
    with grpc.insecure_channel(server.grpc) as channel:
        sent = [asked(0, id="good"), request("nobody", pair(1), id="wrong model"), bad, parameter, asked(2, id="last")]
        call = stub(channel).ModelStreamInfer(iter(sent), timeout=SECONDS)
        answers = {answer.infer_response.id: answer for answer in call}
        assert call.code() == grpc.StatusCode.OK
    assert set(answers) == {"good", "last", *wanted}
    for name, text in wanted.items():
        assert answers[name].error_message.startswith(text), answers[name].error_message
        assert answers[name].infer_response.parameters[FINAL].bool_param
    assert sum_in(answers["good"].infer_response) == sum_of(0)
    assert sum_in(answers["last"].infer_response) == sum_of(2)


def test_tritonclient_is_told_of_an_error_and_goes_on(serve: Serve, some_models: Path) -> None:
    server = serve(some_models)
    told: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: told.put((result, error)), stream_timeout=SECONDS)
        inputs = [given(name, array) for name, array in pair(7).items()]
        client.async_stream_infer("nobody", inputs)
        client.async_stream_infer("add_sub", inputs)
        _, error = told.get(timeout=SECONDS)
        assert error.message() == "model 'nobody' is not in the model repository"
        result, error = told.get(timeout=SECONDS)
        assert error is None
        assert sum_in(result.get_response()) == sum_of(7)
        client.stop_stream()


def test_a_message_that_is_no_request_is_an_error_of_its_own(serve: Serve, some_models: Path) -> None:
    server = serve(some_models)
    with Peer(server.grpc) as peer:
        stream = peer.begin(STREAM_INFER)
        peer.send(stream, message(b"\xff\xff") + message(add_sub()), end=True)
        assert peer.wait(stream).code == 0
        broken, good = stream_answers(peer, stream)
        assert "not a valid protobuf message" in broken.error_message
        assert good.error_message == ""


# --- The end


def test_a_cancel_a_kill_and_a_deadline_stop_what_is_in_flight(serve: Serve, some_models: Path) -> None:
    server = serve(some_models, "--lanes", "1")

    def fill(peer: Peer, *extra: tuple[str, str]) -> int:
        stream = peer.begin(STREAM_INFER, extra)
        for _ in range(20):
            peer.send(stream, message(slow(ENDLESS)))
        assert peer.ask(LIVE, b"").code == 0
        return stream

    with Peer(server.grpc) as peer:
        peer.reset(fill(peer))
        assert peer.ask(INFER, slow(1)).code == 0, "the only lane is free again"
        stream = fill(peer, ("grpc-timeout", "200m"))
        assert peer.wait(stream).code == 4
        assert peer.ask(INFER, slow(1)).code == 0
    killed = Peer(server.grpc)
    fill(killed)
    kill(killed.plug)
    with Peer(server.grpc) as peer:
        assert peer.ask(INFER, slow(1)).code == 0
    check_ends_clean(server)


def test_a_client_process_that_stops_its_stream_leaves_nothing(serve: Serve, some_models: Path) -> None:
    server = serve(some_models, "--lanes", "1")
    told: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: told.put((result, error)))
        for _ in range(5):
            client.async_stream_infer("slow", [given("iterations", np.array([[ENDLESS]], np.int64))])
        client.async_stream_infer("nobody", [], request_id="told at once")
        assert told.get(timeout=SECONDS)[1].message() == "model 'nobody' is not in the model repository"
        client.stop_stream(cancel_requests=True)
        inputs = [given("iterations", np.array([[1]], np.int64))]
        client.infer("slow", inputs, client_timeout=SECONDS)
    check_ends_clean(server)


def test_a_drain_answers_what_was_sent_and_ends_the_stream(serve: Serve, some_models: Path) -> None:
    server = serve(some_models, "--lanes", "1")
    with Peer(server.grpc) as peer:
        busy = peer.begin(STREAM_INFER)
        for number in range(10):
            peer.send(busy, message(asked(number).SerializeToString()))
        peer.send(busy, message(slow(20_000)))
        closed = peer.begin(STREAM_INFER)
        peer.send(closed, message(slow(10)), end=True)
        idle = peer.begin(STREAM_INFER)
        assert peer.ask(LIVE, b"").code == 0
        server.process.send_signal(signal.SIGTERM)
        assert peer.wait(closed).code == 0
        assert peer.wait(busy).code == 14
        assert peer.wait(idle).code == 14
        assert "the server is shutting down" in peer.answers[idle].text
        answers = stream_answers(peer, busy)
        assert [answer.error_message for answer in answers] == [""] * 11
        assert [sum_in(answer.infer_response) for answer in answers[:10]] == [sum_of(n) for n in range(10)]
        peer.wait_closed()
    assert server.wait() == 0
    assert "0 bytes in 0 blocks in use" in server.output()


# --- Bounds


def test_a_stream_that_is_not_read_costs_nobody_else_anything(serve: Serve, some_models: Path) -> None:
    server = serve(some_models, "--max-output-bytes", "4MiB")
    wanted = 20_000
    body = message(asked(1, id="x").SerializeToString())
    with Peer(server.grpc, window=65535) as peer:
        peer.ask(LIVE, b"")
        stream = peer.begin(STREAM_INFER)
        sent = threading.Event()
        stop = threading.Event()

        def others() -> None:
            with Peer(server.grpc) as other:
                while not stop.is_set():
                    assert other.ask(INFER, add_sub()).code == 0
                    sent.set()

        thread = threading.Thread(target=others)
        thread.start()
        try:
            for _ in range(wanted // 100):
                assert peer.send(stream, body * 100)
            assert sent.wait(LONG)
            assert peer.send(stream, b"", end=True)
            assert peer.wait(stream).code == 0
        finally:
            stop.set()
            thread.join()
        assert len(peer.answers[stream].messages) == wanted
    check_ends_clean(server)


def test_more_than_may_be_in_flight_is_held_back_and_not_refused(serve: Serve, some_models: Path) -> None:
    server = serve(some_models, "--lanes", "1", "--max-queue-size", "300")

    def requests() -> Iterator[Any]:
        yield request("slow", {"iterations": np.array([[10_000]], np.int64)})
        for number in range(2000):
            yield asked(number)

    with grpc.insecure_channel(server.grpc) as channel:
        call = stub(channel).ModelStreamInfer(requests(), timeout=SECONDS)
        answers = list(call)
    assert [answer.error_message for answer in answers if answer.error_message] == []
    assert [sum_in(answer.infer_response) for answer in answers[1:]] == [sum_of(number) for number in range(2000)]


def test_a_unary_call_with_another_number_of_messages_is_not_implemented(serve: Serve, some_models: Path) -> None:
    """gRPC's word for a request cardinality violation."""
    server = serve(some_models)
    with Peer(server.grpc) as peer:
        for path, body in ((INFER, add_sub()), (LIVE, b"")):
            none = peer.begin(path, end=True)
            assert peer.wait(none).code == 12
            two = peer.begin(path)
            peer.send(two, message(body) * 2, end=True)
            assert peer.wait(two).code == 12
            assert "takes one message" in peer.answers[two].text
