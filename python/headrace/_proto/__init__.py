"""The protocol's messages, in a descriptor pool of their own.

Public clients register the same `inference` package in protobuf's default pool, and two different files of one name
in one pool fail at import. So the messages are built here, at import, from descriptors compiled from `protos/`: no
generated code, and so no pin to one major release of protobuf.

Every top-level message of `protos/` (but reflection's) is an attribute of this module (`ModelInferRequest`,
`ModelConfig`, ...); nested ones are attributes of theirs (`ModelConfig.ParametersEntry`), and so are the values
of nested enums (`ModelInstanceGroup.KIND_CPU`). Their type is `Any`: protobuf makes the classes at run time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

INFERENCE_SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"
REFLECTION_PACKAGE = "grpc.reflection."
REFLECTION_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC of a service. `path` is what HTTP/2 carries: "/inference.GRPCInferenceService/ServerLive"."""

    path: str
    name: str
    request: Any
    response: Any
    client_streaming: bool
    server_streaming: bool


def _read_descriptors() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(Path(__file__).with_name("descriptors.binpb").read_bytes())


FILES = _read_descriptors()
"""The compiled `protos/`, each file after those that it imports."""

POOL = descriptor_pool.DescriptorPool()
"""Where the messages live: for text_format, json_format and reflection."""

for _file in FILES.file:
    POOL.AddSerializedFile(_file.SerializeToString())


def message_class(full_name: str) -> Any:
    """The class of a message by its full name ("inference.ModelConfig"). Raises KeyError for an unknown name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


def _methods() -> dict[str, Method]:
    methods = {}
    for file in FILES.file:
        for service in file.service:
            for rpc in service.method:
                path = f"/{file.package}.{service.name}/{rpc.name}"
                methods[path] = Method(
                    path=path,
                    name=rpc.name,
                    request=message_class(rpc.input_type.removeprefix(".")),
                    response=message_class(rpc.output_type.removeprefix(".")),
                    client_streaming=rpc.client_streaming,
                    server_streaming=rpc.server_streaming,
                )
    return methods


METHODS: Mapping[str, Method] = MappingProxyType(_methods())
"""Every RPC of every service, by path."""


def _data_types() -> dict[str, int]:
    return {value.name: value.number for value in POOL.FindEnumTypeByName("inference.DataType").values}


DataType = IntEnum("DataType", _data_types())  # type: ignore[misc]  # the members are known at run time only
"""config.pbtxt's data types: `DataType["TYPE_FP32"]`, `DataType(11).name`."""

_MESSAGES = {
    message.name: f"{file.package}.{message.name}"
    for file in FILES.file
    if not file.package.startswith(REFLECTION_PACKAGE)  # two packages with the same names: see METHODS
    for message in file.message_type
}


def __getattr__(name: str) -> Any:
    if name not in _MESSAGES:
        raise AttributeError(f"module 'headrace._proto' has no attribute {name!r}")
    found = message_class(_MESSAGES[name])
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MESSAGES})
