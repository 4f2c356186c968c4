"""The wire's messages: compiled from protos/, a superset of the public client's, at peace with it in one process."""

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, json_format, text_format

from headrace import _proto

ROOT = Path(__file__).resolve().parents[2]

# What tritonclient lacks: our union with the Open Inference Protocol's own dialect.
OURS_ALONE = ("inference.ModelMetadataResponse.properties", "inference.ModelMetadataResponse.PropertiesEntry")

CONFIG = """
# A configuration as people write it.
name: "detector"
platform: "onnxruntime_onnx"
max_batch_size: 16
input [
  {
    name: "image", data_type: TYPE_FP32, format: FORMAT_NCHW, dims: [ 3, -1, -1 ],
    reshape: { shape: [ 1, 3, -1, -1 ] }
  },
  { name: "threshold" data_type: TYPE_FP16 dims: 1 optional: true }
]
output { name: "scores" data_type: TYPE_FP32 dims: [ 1000 ] label_filename: "labels.txt" }
instance_group [ { count: 2, kind: KIND_GPU, gpus: [ 0, 1 ] }, { kind: KIND_CPU count: 1 } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 100000 max_queue_size: 64 }
  priority_levels: 2
  default_priority_level: 2
  priority_queue_policy { key: 1 value: { max_queue_size: 8 } }
}
version_policy: { specific { versions: [ 1, 3 ] } }
optimization { execution_accelerators { gpu_execution_accelerator : [ {
  name : "tensorrt" parameters { key: "precision_mode" value: "FP16" } } ] } cuda { graphs: 1 } }
parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
model_warmup [ { name: "one" batch_size: 1 inputs { key: "image" value: {
  data_type: TYPE_FP32 dims: [ 3, 8, 8 ] zero_data: true } } } ]
response_cache { enable: true }
"""


def test_descriptors_are_compiled_from_protos(tmp_path: Path) -> None:
    fresh = tmp_path / "descriptors.binpb"
    subprocess.run([ROOT / "scripts/compile_protos", fresh], check=True)
    compiled = descriptor_pb2.FileDescriptorSet.FromString(fresh.read_bytes())
    assert compiled == _proto.FILES, "protos/ has changed: run scripts/compile_protos and commit the result"


@pytest.mark.parametrize("first", ["headrace._proto", "tritonclient.grpc"])
def test_every_field_of_the_public_client_is_ours_too(first: str) -> None:
    # In a fresh process: two files of one name disturb each other when they are imported.
    code = f"import runpy, {first}; runpy.run_path({__file__!r}, run_name='__main__')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    found = re.fullmatch(r"(\d+) facts agree\n", told.stdout)
    assert found, told.stdout
    assert int(found.group(1)) > 500


def test_a_difference_would_be_seen() -> None:
    changed = descriptor_pb2.FileDescriptorProto()
    changed.CopyFrom(_proto.FILES.file[0])
    field = changed.message_type[0].field[0]
    field.number += 100
    ours, theirs = facts(_proto.FILES.file[0]), facts(changed)
    assert {name for name in ours if ours[name] != theirs.get(name)} == {
        f"{changed.package}.{changed.message_type[0].name}.{field.name}"
    }


def test_text_format_reads_a_config_as_people_write_it() -> None:
    config = text_format.Parse(CONFIG, _proto.ModelConfig(), descriptor_pool=_proto.POOL)
    assert config.name == "detector"
    assert [_proto.DataType(tensor.data_type).name for tensor in config.input] == ["TYPE_FP32", "TYPE_FP16"]
    assert list(config.input[0].dims) == [3, -1, -1]
    assert config.input[1].optional
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.dynamic_batching.priority_queue_policy[1].max_queue_size == 8
    assert [group.kind for group in config.instance_group] == [
        _proto.ModelInstanceGroup.KIND_GPU,
        _proto.ModelInstanceGroup.KIND_CPU,
    ]
    assert list(config.version_policy.specific.versions) == [1, 3]
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator[0]
    assert accelerator.parameters["precision_mode"] == "FP16"
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert config.model_warmup[0].inputs["image"].WhichOneof("input_data_type") == "zero_data"
    again = text_format.Parse(text_format.MessageToString(config), _proto.ModelConfig(), descriptor_pool=_proto.POOL)
    assert again == config
    with pytest.raises(text_format.ParseError, match='no field named "max_batchsize"'):
        text_format.Parse("max_batchsize: 4", _proto.ModelConfig(), descriptor_pool=_proto.POOL)


def test_messages_travel() -> None:
    request = _proto.ModelInferRequest(model_name="mlp", inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}])
    request.inputs[0].contents.fp32_contents.extend([0.5, math.inf])
    request.parameters["timeout"].uint64_param = 2**64 - 1
    read = _proto.ModelInferRequest.FromString(request.SerializeToString())
    assert read == request
    assert json_format.MessageToDict(read)["inputs"][0]["shape"] == ["1", "2"]


def test_classes_are_made_once_and_named_fully() -> None:
    assert _proto.ModelConfig is _proto.message_class("inference.ModelConfig")
    assert _proto.HealthCheckResponse.SERVING == 1
    assert _proto.DataType["TYPE_BF16"] == 14
    assert {"ModelConfig", "HealthCheckRequest", "METHODS"} <= set(dir(_proto))
    with pytest.raises(AttributeError, match="has no attribute 'ModelConfg'"):
        _ = _proto.ModelConfg
    with pytest.raises(KeyError):
        _proto.message_class("inference.Nothing")


def test_methods_are_those_of_the_services() -> None:
    infer = _proto.METHODS[f"/{_proto.INFERENCE_SERVICE}/ModelInfer"]
    assert infer.request is _proto.ModelInferRequest
    assert infer.response is _proto.ModelInferResponse
    assert not infer.client_streaming
    stream = _proto.METHODS[f"/{_proto.INFERENCE_SERVICE}/ModelStreamInfer"]
    assert stream.client_streaming
    assert stream.server_streaming
    watch = _proto.METHODS[f"/{_proto.HEALTH_SERVICE}/Watch"]
    assert (watch.client_streaming, watch.server_streaming) == (False, True)
    assert len(_proto.METHODS) == 24


def facts(file: descriptor_pb2.FileDescriptorProto) -> dict[str, tuple[Any, ...]]:
    """Every message, field, enum value and RPC of a file, by full name, as what is on the wire or in text."""
    return dict(_facts_of(file))


def _facts_of(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for message in file.message_type:
        yield from _message_facts(f"{file.package}.{message.name}", message)
    for enum in file.enum_type:
        yield from _enum_facts(f"{file.package}.{enum.name}", enum)
    for service in file.service:
        for rpc in service.method:
            name = f"{file.package}.{service.name}.{rpc.name}"
            yield name, (rpc.input_type, rpc.output_type, rpc.client_streaming, rpc.server_streaming)


def _message_facts(name: str, message: descriptor_pb2.DescriptorProto) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield name, (message.options.map_entry,)
    for field in message.field:
        oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
        yield f"{name}.{field.name}", (field.number, field.label, field.type, field.type_name, oneof)
    for nested in message.nested_type:
        yield from _message_facts(f"{name}.{nested.name}", nested)
    for enum in message.enum_type:
        yield from _enum_facts(f"{name}.{enum.name}", enum)


def _enum_facts(name: str, enum: descriptor_pb2.EnumDescriptorProto) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for value in enum.value:
        yield f"{name}.{value.name}", (value.number,)


def _file_of(module: Any) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    return file


def _theirs() -> dict[str, tuple[Any, ...]]:
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2
    from tritonclient.grpc import model_config_pb2, service_pb2

    found = {}
    for module in (service_pb2, model_config_pb2, health_pb2, reflection_pb2):
        found.update(facts(_file_of(module)))
    # The package has no v1: it is v1alpha under another name.
    for name, fact in list(found.items()):
        newer = (part.replace(".v1alpha.", ".v1.") if isinstance(part, str) else part for part in fact)
        found[name.replace(".v1alpha.", ".v1.")] = tuple(newer)
    return found


def _compare() -> int:
    theirs = _theirs()
    ours = {name: fact for file in _proto.FILES.file for name, fact in facts(file).items()}
    wrong = [f"{name}: theirs {fact}, ours {ours.get(name)}" for name, fact in theirs.items() if ours.get(name) != fact]
    added = {name for name in ours if name.startswith(OURS_ALONE)}
    wrong += [f"{name}: ours alone" for name in sorted(ours.keys() - theirs.keys() - added)]
    print("\n".join(wrong) if wrong else f"{len(theirs)} facts agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(_compare())
