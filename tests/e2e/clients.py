"""Clients that others wrote, one face for all of them, and the runtime itself to compare their answers with."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = Mapping[str, Array]
SECONDS = 60.0  # for one call: far more than it takes, because machines that run tests are busy

NUMPY: dict[str, type] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
DATATYPES = {np.dtype(kind): name for name, kind in NUMPY.items()}
# The field of `contents` for each datatype; FP16 and BF16 have none of their own.
FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    **dict.fromkeys(("FP16", "BF16", "FP32"), "fp32_contents"),
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def sample(datatype: str, shape: Sequence[int], seed: int = 0) -> Array:
    """An array of a datatype with its extremes in it, the same for the same seed."""
    random = np.random.default_rng(seed)
    kind = NUMPY[datatype]
    if datatype == "BOOL":
        return random.integers(0, 2, shape).astype(np.bool_)
    if datatype == "BYTES":
        words = [b"", b"\x00\xff\x00", "Grüße".encode(), b"x" * 300]
        return np.array([words[i] for i in random.integers(0, 4, int(np.prod(shape)))], np.object_).reshape(shape)
    if np.issubdtype(kind, np.integer):
        bounds = np.iinfo(kind)
        flat = random.integers(bounds.min, bounds.max, int(np.prod(shape)), dtype=kind, endpoint=True)
        flat[: min(2, flat.size)] = [bounds.min, bounds.max][: flat.size]
        return flat.reshape(shape)
    return random.normal(0, 100, shape).astype(kind)


def raw_of(array: Array) -> bytes:
    """A tensor's bytes as raw_input_contents has them."""
    if array.dtype == np.object_:
        return b"".join(len(word).to_bytes(4, "little") + word for word in array.reshape(-1))
    return array.tobytes()


def array_of(raw: bytes, datatype: str, shape: Sequence[int]) -> Array:
    """The array that raw_output_contents holds."""
    flat: Array = (
        deserialize_bytes_tensor(raw) if datatype == "BYTES" else np.frombuffer(raw, np.dtype(NUMPY[datatype]))
    )
    return flat.reshape(shape)


def request(model: str, tensors: Tensors, outputs: Sequence[str] = (), **fields: Any) -> Any:
    """A ModelInferRequest with raw contents."""
    message = service_pb2.ModelInferRequest(model_name=model, **fields)
    for name, array in tensors.items():
        message.inputs.add(name=name, datatype=DATATYPES[array.dtype], shape=array.shape)
        message.raw_input_contents.append(raw_of(array))
    for name in outputs:
        message.outputs.add(name=name)
    return message


def typed_request(model: str, tensors: Mapping[str, tuple[str, Array]]) -> Any:
    """A ModelInferRequest with typed contents: (datatype, values) for each input."""
    message = service_pb2.ModelInferRequest(model_name=model)
    for name, (datatype, values) in tensors.items():
        tensor = message.inputs.add(name=name, datatype=datatype, shape=values.shape)
        getattr(tensor.contents, FIELDS[datatype]).extend(values.reshape(-1).tolist())
    return message


def answer_of(response: Any) -> dict[str, Array]:
    """The arrays of a ModelInferResponse."""
    return {
        tensor.name: array_of(raw, tensor.datatype, tensor.shape)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def stub(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """The protocol's calls, made with the public client's own generated code."""
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def given(name: str, array: Array) -> triton.InferInput:
    """An input as tritonclient takes it."""
    tensor = triton.InferInput(name, list(array.shape), DATATYPES[array.dtype])
    tensor.set_data_from_numpy(array)
    return tensor


def _told(result: Any) -> dict[str, Array]:
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


class Call(NamedTuple):
    """One request to one model."""

    model: str
    tensors: Tensors


Ask = Callable[[str, Sequence[Call], int], list[dict[str, Array]]]


def _triton_sync(target: str, calls: Sequence[Call], in_flight: int) -> list[dict[str, Array]]:
    with triton.InferenceServerClient(target) as client, ThreadPoolExecutor(in_flight) as pool:

        def ask(call: Call) -> dict[str, Array]:
            inputs = [given(name, array) for name, array in call.tensors.items()]
            return _told(client.infer(call.model, inputs, client_timeout=SECONDS))

        return list(pool.map(ask, calls))


def _triton_aio(target: str, calls: Sequence[Call], in_flight: int) -> list[dict[str, Array]]:
    async def main() -> list[dict[str, Array]]:
        gate = asyncio.Semaphore(in_flight)
        async with triton_aio.InferenceServerClient(target) as client:

            async def ask(call: Call) -> dict[str, Array]:
                inputs = [given(name, array) for name, array in call.tensors.items()]
                async with gate:
                    return _told(await client.infer(call.model, inputs, client_timeout=SECONDS))

            return await asyncio.gather(*(ask(call) for call in calls))

    return asyncio.run(main())


def _grpc_sync(target: str, calls: Sequence[Call], in_flight: int) -> list[dict[str, Array]]:
    with grpc.insecure_channel(target) as channel, ThreadPoolExecutor(in_flight) as pool:
        infer = stub(channel).ModelInfer
        return list(pool.map(lambda call: answer_of(infer(request(*call), timeout=SECONDS)), calls))


def _grpc_aio(target: str, calls: Sequence[Call], in_flight: int) -> list[dict[str, Array]]:
    async def main() -> list[dict[str, Array]]:
        gate = asyncio.Semaphore(in_flight)
        async with grpc.aio.insecure_channel(target) as channel:
            infer = stub(channel).ModelInfer

            async def ask(call: Call) -> dict[str, Array]:
                async with gate:
                    return answer_of(await infer(request(*call), timeout=SECONDS))

            return await asyncio.gather(*(ask(call) for call in calls))

    return asyncio.run(main())


# Each sends all calls, `in_flight` of them at one time, and gives the answers in the calls' order.
CLIENTS: dict[str, Ask] = {
    "tritonclient.grpc": _triton_sync,
    "tritonclient.grpc.aio": _triton_aio,
    "grpcio": _grpc_sync,
    "grpcio.aio": _grpc_aio,
}


class Reference:
    """ONNX Runtime run directly, with the session options of a server that has `--compute-threads 1`."""

    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, tensors: Tensors) -> dict[str, Array]:
        if any(array.dtype == ml_dtypes.bfloat16 for array in tensors.values()):
            return self._run_bf16(tensors)
        names = [output.name for output in self._session.get_outputs()]
        given_words = {
            name: np.array([w.decode("latin-1") for w in a.reshape(-1)], np.object_).reshape(a.shape)
            if a.dtype == np.object_
            else a
            for name, a in tensors.items()
        }
        results = self._session.run(names, given_words)
        return {
            name: np.array([w.encode("latin-1") for w in r.reshape(-1)], np.object_).reshape(r.shape)
            if r.dtype == np.object_
            else r
            for name, r in zip(names, results, strict=True)
        }

    def _run_bf16(self, tensors: Tensors) -> dict[str, Array]:
        """For one output that is twice as wide as the input: the runtime's Python face has no bfloat16 arrays, so they
        go in and out as their bits."""
        (name, array), output = next(iter(tensors.items())), self._session.get_outputs()[0].name
        bits = np.ascontiguousarray(array).view(np.uint16)
        filled = np.zeros((*bits.shape[:-1], 2 * bits.shape[-1]), np.uint16)
        binding = self._session.io_binding()
        kind, value = onnx.TensorProto.BFLOAT16, onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        binding.bind_ortvalue_input(name, value(bits, kind))
        binding.bind_ortvalue_output(output, value(filled, kind))
        self._session.run_with_iobinding(binding)
        return {output: filled.view(ml_dtypes.bfloat16)}


def assert_equal(told: Tensors, wanted: Tensors) -> None:
    """The same outputs, bit for bit."""
    assert set(told) == set(wanted)
    for name, array in wanted.items():
        assert told[name].dtype == array.dtype, name
        assert told[name].shape == array.shape, name
        if array.dtype == np.object_:
            assert told[name].tolist() == array.tolist(), name
        else:
            assert told[name].tobytes() == array.tobytes(), name


def assert_close(told: Tensors, wanted: Tensors) -> None:
    """The same outputs but for the rounding that a batch's size brings."""
    assert set(told) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(told[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


def rows_of(array: Array) -> list[Array]:
    """Each row as a batch of one."""
    return [array[i : i + 1] for i in range(len(array))]


__all__ = [
    "CLIENTS",
    "SECONDS",
    "Array",
    "Ask",
    "Call",
    "Reference",
    "Tensors",
    "answer_of",
    "assert_close",
    "assert_equal",
    "given",
    "request",
    "rows_of",
    "sample",
    "stub",
    "typed_request",
]
