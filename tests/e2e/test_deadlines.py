"""Deadlines and cancels on a real process: answered on time whatever the lanes do, and the memory is back at once."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from e2e.checks import check_ends_clean
from e2e.h2_peer import ENDLESS, INFER, LIVE, LONG, Peer, add_sub, infer, message, slow
from server_process import ServerProcess

Serve = Callable[..., ServerProcess]
MIB = 1 << 20


@pytest.fixture
def slow_models(repository: Callable[..., Path], models: Path) -> Path:
    return repository(**{name: models / f"{name}.onnx" for name in ("add_sub", "slow", "dynamic_inner")})


def wait_for_runs(server: ServerProcess, model: str, runs: int) -> None:
    deadline = time.monotonic() + LONG
    with triton.InferenceServerClient(server.grpc) as client:
        while client.get_inference_statistics(model).model_stats[0].execution_count < runs:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def lateness_ms(server: ServerProcess, timeout_ms: int, calls: int) -> list[float]:
    """How late each of some calls is answered that only its deadline can end."""
    late = []
    with Peer(server.grpc) as peer:
        peer.ask(LIVE, b"")
        for _ in range(calls):
            stream = peer.begin(INFER, [("grpc-timeout", f"{timeout_ms}m")])
            due = time.monotonic() + timeout_ms / 1000
            peer.send(stream, message(slow(1)), end=True)
            answer = peer.wait(stream)
            assert answer.code == 4, answer
            assert answer.done_at >= due - timeout_ms / 1000
            late.append((answer.done_at - due) * 1000)
    return late


def test_a_deadline_behind_a_long_run_is_kept(serve: Serve, slow_models: Path) -> None:
    server = serve(slow_models, "--lanes", "1")
    with Peer(server.grpc) as busy:
        running = busy.call(INFER, slow(ENDLESS))
        assert busy.ask(LIVE, b"").code == 0
        late = lateness_ms(server, 100, 20)
        assert not busy.answers[running].over
        # The client, and other work of the machine, can only add to it: the server's part is at most the least.
        assert -5 < min(late) < 20, late
        busy.reset(running)
    check_ends_clean(server)


def test_the_deadline_of_a_running_call_is_kept(serve: Serve, slow_models: Path) -> None:
    server = serve(slow_models, "--lanes", "1")
    with Peer(server.grpc) as peer:
        late = []
        for _ in range(10):
            stream = peer.begin(INFER, [("grpc-timeout", "100m")])
            due = time.monotonic() + 0.1
            peer.send(stream, message(slow(ENDLESS)), end=True)
            assert peer.wait(stream).code == 4
            late.append((peer.answers[stream].done_at - due) * 1000)
            assert peer.ask(INFER, slow(1)).code == 0  # the only lane is free again: its run was stopped
        assert min(late) < 20, late
    check_ends_clean(server)


def test_a_deadline_that_has_passed(serve: Serve, slow_models: Path) -> None:
    server = serve(slow_models)
    with Peer(server.grpc) as peer:
        for timeout in ("0n", "1n"):
            answer = peer.ask(INFER, add_sub(), [("grpc-timeout", timeout)])
            assert answer.code == 4, answer
            assert "deadline" in answer.text
        assert peer.ask(INFER, add_sub(), [("grpc-timeout", "100H")]).code == 0
        # Half a message, and then the time is over.
        stream = peer.begin(INFER, [("grpc-timeout", "50m")])
        peer.send(stream, message(add_sub())[:20])
        assert peer.wait(stream).code == 4
    check_ends_clean(server)


@pytest.mark.parametrize("how", ["reset", "closed", "deadline"])
def test_a_cancelled_call_frees_its_queue_memory_at_once(serve: Serve, slow_models: Path, how: str) -> None:
    """The queue takes two of these; a third fits only when the others are gone, and the lane is busy all the time."""
    server = serve(slow_models, "--lanes", "1", "--max-request-bytes", "1MiB", "--max-queue-bytes", "2MiB")
    large = infer("dynamic_inner", x=np.ones((1, 62000, 4), dtype=np.float32))
    with Peer(server.grpc) as busy, Peer(server.grpc) as peer:
        running = busy.call(INFER, slow(ENDLESS))
        assert busy.ask(LIVE, b"").code == 0
        for _ in range(5):
            with Peer(server.grpc) as other:
                limit = [("grpc-timeout", "200m")] if how == "deadline" else []
                queued = [other.call(INFER, large, limit) for _ in range(2)]
                assert other.ask(LIVE, b"").code == 0
                if how != "deadline":
                    full = peer.ask(INFER, large)
                    assert full.code == 8, full
                    assert "--max-queue-bytes" in full.text or "queue" in full.text
                if how == "reset":
                    for stream in queued:
                        other.reset(stream)
                    assert other.ask(LIVE, b"").code == 0
                elif how == "deadline":
                    assert [other.wait(stream).code for stream in queued] == [4, 4]
            fits = peer.call(INFER, large)
            deadline = time.monotonic() + LONG
            while how == "closed" and peer.ask(LIVE, b"").code == 0 and peer.answers[fits].over:
                assert time.monotonic() < deadline, "the memory of a closed connection's calls does not come back"
                fits = peer.call(INFER, large)  # the server had not seen the end of the connection yet
            assert peer.ask(LIVE, b"").code == 0
            assert not peer.answers[fits].over
            peer.reset(fits)
            assert peer.ask(LIVE, b"").code == 0
        assert not busy.answers[running].over
        busy.reset(running)
    check_ends_clean(server)


def test_a_cancelled_run_is_stopped_and_its_lane_free(serve: Serve, slow_models: Path) -> None:
    server = serve(slow_models, "--lanes", "1")
    with Peer(server.grpc) as peer:
        for _ in range(10):
            running = peer.call(INFER, slow(ENDLESS))
            assert peer.ask(LIVE, b"").code == 0
            peer.reset(running)
            answer = peer.ask(INFER, slow(1))
            assert answer.code == 0, answer
    check_ends_clean(server)


def test_a_cancelled_call_does_not_end_its_mates(serve: Serve, slow_models: Path) -> None:
    server = serve(slow_models, "--lanes", "1")
    with Peer(server.grpc) as peer:
        first = peer.call(INFER, slow(300))  # while it runs, the others form a batch
        mates = [peer.call(INFER, slow(2000)) for _ in range(4)]
        wait_for_runs(server, "slow", 1)
        peer.reset(mates[1])
        assert peer.wait(first).code == 0
        assert [peer.wait(stream).code for stream in (mates[0], mates[2], mates[3])] == [0, 0, 0]
    check_ends_clean(server)
