"""What must hold of every server after whatever a test did to it."""

from e2e.h2_peer import INFER, Peer, add_sub
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
