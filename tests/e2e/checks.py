"""What must hold of every server after whatever a test did to it, and what a test must wait for before it looks."""

import json
import time
from typing import Any
from urllib.request import urlopen

from e2e.h2_peer import INFER, LONG, Peer, add_sub
from server_process import ServerProcess


def check_serves(server: ServerProcess) -> None:
    """It runs, and its model add_sub answers."""
    assert server.process.poll() is None, server.output()
    with Peer(server.grpc) as peer:
        answer = peer.ask(INFER, add_sub())
        assert (answer.code, answer.text) == (0, "")


def check_ends_clean(server: ServerProcess) -> None:
    """Exit code 0, an empty pool, and no fault in the log."""
    assert server.stop() == 0
    assert "0 bytes in 0 blocks in use" in server.output()
    assert "Traceback" not in server.output()
    assert " ERROR " not in server.output()


def when_running(http: str, model: str, lanes: int) -> Any:
    """What the scheduler shows of a model once so many lanes run it; http is host:port. None of them: a lane writes a
    run down after its answers are out. One: an answer to a later call does not mean that a lane has woken up."""
    deadline = time.monotonic() + LONG
    while True:
        with urlopen(f"http://{http}/v2/models/{model}/scheduler", timeout=LONG) as answer:
            shown = json.load(answer)
        if shown["lanes"]["running"] == lanes:
            return shown
        assert time.monotonic() < deadline, shown["lanes"]
        time.sleep(0.01)
