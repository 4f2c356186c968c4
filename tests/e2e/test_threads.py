"""--io-threads 2: connections on both loops, and everything works from either."""

import contextlib
import re
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from e2e.h2_peer import INFER, LIVE, Peer, add_sub, infer, kill, message, slow
from server_process import ServerProcess

Serve = Callable[..., ServerProcess]


@pytest.fixture
def server(serve: Serve, repository: Callable[..., Path], models: Path) -> ServerProcess:
    folder = repository(**{name: models / f"{name}.onnx" for name in ("add_sub", "dynamic_inner", "slow")})
    return serve(folder, "--io-threads", "2")


@contextlib.contextmanager
def peers_of(server: ServerProcess, count: int) -> Iterator[list[Peer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Peer(server.grpc)) for _ in range(count)]


def epolls(server: ServerProcess) -> list[int]:
    """How many sockets each of the server's epoll sets watches, the largest first: a loop is one such set."""
    folder = Path(f"/proc/{server.process.pid}")
    sockets = {int(fd.name) for fd in (folder / "fd").iterdir() if str(fd.readlink()).startswith("socket:")}
    found = []
    for fd in (folder / "fd").iterdir():
        if str(fd.readlink()) == "anon_inode:[eventpoll]":
            lines = (folder / "fdinfo" / fd.name).read_text().split("\n")
            watched = {int(line.split()[1]) for line in lines if line.startswith("tfd:")}
            found.append(len(watched & sockets))
    return sorted(found, reverse=True)


def test_connections_are_spread_over_both_loops(server: ServerProcess) -> None:
    with peers_of(server, 40) as peers:
        assert all(peer.ask(LIVE, b"").code == 0 for peer in peers)
        watched = [count for count in epolls(server) if count >= 20]
        assert len(watched) == 2, epolls(server)
        assert sum(watched) <= 40 + 8  # the listening sockets and the loops' own are few
        # The first half goes; what comes then goes where there is room.
        for peer in peers[::2]:
            peer.plug.close()
    assert server.stop() == 0


def test_every_call_from_both_loops(server: ServerProcess) -> None:
    def work(address: str) -> Counter[str]:
        done: Counter[str] = Counter()
        # A channel of its own each, or they would share a connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with triton.InferenceServerClient(address, channel_args=options) as client:
            for _ in range(20):
                assert client.is_server_live()
                assert client.is_server_ready()
                assert client.is_model_ready("add_sub")
                assert client.get_server_metadata().name == "headrace"
                assert client.get_model_metadata("add_sub").name == "add_sub"
                assert client.get_model_config("add_sub").config.name == "add_sub"
                assert client.get_inference_statistics("add_sub").model_stats[0].name == "add_sub"
                tensors = [triton.InferInput(name, [2, 16], "INT32") for name in ("a", "b")]
                rows = np.arange(32, dtype=np.int32).reshape(2, 16)
                for tensor in tensors:
                    tensor.set_data_from_numpy(rows)
                np.testing.assert_array_equal(client.infer("add_sub", tensors).as_numpy("sum"), rows * 2)
                done["round"] += 1
        return done

    with ThreadPoolExecutor(6) as pool:
        rounds = list(pool.map(work, [server.grpc] * 6))
    assert sum(rounds, Counter()) == {"round": 120}
    for _ in range(4):
        with urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=60) as answer:
            assert answer.status == 200
    assert server.stop() == 0
    assert "0 bytes in 0 blocks in use" in server.output()


def test_requests_of_both_loops_share_batches_and_none_is_lost(server: ServerProcess) -> None:
    with peers_of(server, 8) as peers:
        blocker = [peers[0].call(INFER, slow(500)) for _ in range(2)]
        for _ in range(10):
            streams = [(peer, [peer.call(INFER, add_sub()) for _ in range(20)]) for peer in peers]
            assert {peer.wait(stream).code for peer, some in streams for stream in some} == {0}
        assert {peers[0].wait(stream).code for stream in blocker} == {0}
        large = infer("dynamic_inner", x=np.ones((1, 250_000, 4), dtype=np.float32))
        streams = [(peer, [peer.call(INFER, large)]) for peer in peers]
        assert {peer.wait(stream).code for peer, some in streams for stream in some} == {0}
    assert server.stop() == 0
    assert "0 bytes in 0 blocks in use" in server.output()


def test_connections_of_both_loops_that_end_badly(server: ServerProcess) -> None:
    for _ in range(20):
        with peers_of(server, 6) as peers:
            for number, peer in enumerate(peers):
                peer.call(INFER, slow(50))
                peer.send(peer.begin(INFER), message(bytes(50_000), size=1_000_000))
                peer.call(LIVE, b"")  # an answer of loop 0 for a connection that is gone
                if number % 2:
                    kill(peer.plug)
    with peers_of(server, 4) as peers:
        assert {peer.ask(INFER, add_sub()).code for peer in peers} == {0}
    assert server.stop() == 0
    assert "0 bytes in 0 blocks in use" in server.output()
    assert "Traceback" not in server.output()


def test_both_loops_read_and_answer(serve: Serve, repository: Callable[..., Path], models: Path) -> None:
    server = serve(repository(add_sub=models / "add_sub.onnx"), "--io-threads", "2", "--measure-steps")
    with peers_of(server, 4) as peers:
        assert {peer.ask(INFER, add_sub()).code for peer in peers} == {0}
    assert server.stop() == 0
    loops = re.findall(r"longest steps of the event loop, in ms of CPU: (.*)", server.output())
    assert len(loops) == 2
    assert all(kind in loop for loop in loops for kind in ("read", "completions")), loops
