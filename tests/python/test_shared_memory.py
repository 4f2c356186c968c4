"""The calls of gRPC about clients' shared memory: protobuf in, protobuf out."""

import asyncio
from typing import Any, cast

import pytest

from headrace import _proto
from headrace.errors import AlreadyExists, NotFound, PermissionDenied, Unavailable
from headrace.grpc_calls import Answerer

SYSTEM = "/inference.GRPCInferenceService/SystemSharedMemory"
CUDA = "/inference.GRPCInferenceService/CudaSharedMemory"


class FakeService:
    """One region; "taken" is there already, "off" is not allowed."""

    def register_shared_memory(self, name: str, key: str, offset: int, byte_size: int) -> None:
        if name == "taken":
            raise AlreadyExists("shared memory region 'taken' already exists")
        assert (name, key, offset, byte_size) == ("r", "/k", 8, 64)

    def unregister_shared_memory(self, name: str) -> None:
        if name == "off":
            raise PermissionDenied("--allow-client-shm")

    def shared_memory(self, name: str) -> list[tuple[str, str, int, int]]:
        return [(name or "r", "/k", 8, 64)]

    def register_cuda_shared_memory(self, name: str) -> None:
        raise Unavailable(f"CUDA: {name}")

    def cuda_shared_memory(self, name: str) -> None:
        if name:
            raise NotFound(name)


def ask(path: str, request: Any) -> Any:
    async def work() -> bytes:
        answerer = Answerer(cast(Any, FakeService()), asyncio.get_running_loop())
        return await answerer.answer(path, request.SerializeToString())

    return _proto.METHODS[path].response.FromString(asyncio.run(asyncio.wait_for(work(), 20)))


def test_system_shared_memory() -> None:
    register = _proto.SystemSharedMemoryRegisterRequest
    ask(SYSTEM + "Register", register(name="r", key="/k", offset=8, byte_size=64))
    with pytest.raises(AlreadyExists, match="taken"):
        ask(SYSTEM + "Register", register(name="taken", key="/k", byte_size=64))
    regions = ask(SYSTEM + "Status", _proto.SystemSharedMemoryStatusRequest(name="q")).regions
    assert {key: (r.name, r.key, r.offset, r.byte_size) for key, r in regions.items()} == {"q": ("q", "/k", 8, 64)}
    ask(SYSTEM + "Unregister", _proto.SystemSharedMemoryUnregisterRequest(name="r"))
    with pytest.raises(PermissionDenied):
        ask(SYSTEM + "Unregister", _proto.SystemSharedMemoryUnregisterRequest(name="off"))


def test_cuda_shared_memory() -> None:
    with pytest.raises(Unavailable, match="CUDA: c"):
        ask(CUDA + "Register", _proto.CudaSharedMemoryRegisterRequest(name="c"))
    assert not ask(CUDA + "Status", _proto.CudaSharedMemoryStatusRequest()).regions
    with pytest.raises(NotFound):
        ask(CUDA + "Status", _proto.CudaSharedMemoryStatusRequest(name="c"))
    ask(CUDA + "Unregister", _proto.CudaSharedMemoryUnregisterRequest(name="c"))
