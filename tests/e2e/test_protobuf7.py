"""The package runs with protobuf 6 (this environment) and 7 (the one that the wheel is installed in)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import google.protobuf
import grpc
import numpy as np
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc

from e2e.conftest import Environment
from server_process import ServerProcess

# Run by the other environment: its protobuf, and what our own pool makes of it.
PROBE = """
import google.protobuf
from google.protobuf import text_format
from headrace import _proto
assert google.protobuf.__version__.split(".")[0] == "7", google.protobuf.__version__
request = _proto.ModelInferRequest(model_name="m", id="7")
request.inputs.add(name="x", datatype="INT32", shape=[2, 3])
again = _proto.ModelInferRequest.FromString(request.SerializeToString())
assert again == request and list(again.inputs[0].shape) == [2, 3]
config = text_format.Parse('max_batch_size: 8 dynamic_batching { }', _proto.ModelConfig())
assert config.max_batch_size == 8 and config.HasField("dynamic_batching")
print("protobuf", google.protobuf.__version__)
"""

CONFIG = 'backend: "onnxruntime"\nmax_batch_size: 4\ndynamic_batching { max_queue_delay_microseconds: 100 }\n'


def test_this_environment_has_protobuf_6() -> None:
    assert google.protobuf.__version__.split(".")[0] == "6"


def test_messages_and_text_format_under_protobuf_7(cpu_environment: Environment) -> None:
    told = cpu_environment.run(cpu_environment.python, "-c", PROBE)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("protobuf 7.")


def test_every_call_answers_under_protobuf_7(
    cpu_environment: Environment, repository: Callable[..., Path], magika_model: Path
) -> None:
    models = repository(magika=magika_model)
    (models / "magika/config.pbtxt").write_text(CONFIG)
    with ServerProcess(models, command=[str(cpu_environment.headrace)]) as server:
        with triton.InferenceServerClient(server.grpc) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("magika")
            assert client.get_server_metadata().name == "headrace"
            assert [tensor.name for tensor in client.get_model_metadata("magika").inputs] == ["bytes"]
            config = client.get_model_config("magika").config
            assert config.max_batch_size == 4
            assert config.dynamic_batching.max_queue_delay_microseconds == 100
            given = triton.InferInput("bytes", [1, 2048], "INT32")
            given.set_data_from_numpy(np.zeros((1, 2048), dtype=np.int32))
            assert client.infer("magika", [given]).as_numpy("target_label").shape == (1, 214)
            statistics = client.get_inference_statistics("magika").model_stats[0]
            assert statistics.inference_count == 1
        with grpc.insecure_channel(server.grpc) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            health = stub.Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert server.stop() == 0
