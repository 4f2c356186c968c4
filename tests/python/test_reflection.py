"""Server reflection: what is served, found by file and by symbol, whole."""

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from headrace import _proto, reflection

PATH = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
INFO = _proto.METHODS[PATH]


def ask(**request: Any) -> Any:
    return reflection.answer(INFO.request(**request), INFO.response)


def files(answer: Any) -> list[descriptor_pb2.FileDescriptorProto]:
    found = answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(file) for file in found]


def test_services() -> None:
    answer = ask(list_services="*", host="me")
    assert (answer.valid_host, answer.original_request.list_services) == ("me", "*")
    assert [service.name for service in answer.list_services_response.service] == [
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.GRPCInferenceService",
        "inference.GRPCInferenceService.ModelInfer",
        "inference.ModelInferRequest",
        "inference.ModelInferRequest.InferInputTensor",
        "inference.ModelInferRequest.id",
        "inference.DataType",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    ],
)
def test_a_symbols_file_comes_with_all_that_it_imports(symbol: str) -> None:
    pool = descriptor_pool.DescriptorPool()
    for file in reversed(files(ask(file_containing_symbol=symbol))):
        pool.Add(file)
    assert pool.FindFileContainingSymbol(symbol.removesuffix(".ModelInfer")).name


def test_a_file_by_its_name() -> None:
    assert [file.name for file in files(ask(file_by_filename="grpc_service.proto"))] == [
        "grpc_service.proto",
        "model_config.proto",
    ]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"file_by_filename": "none.proto"}, 5),
        ({"file_containing_symbol": "inference.Nothing"}, 5),
        ({"file_containing_symbol": ""}, 5),
        ({"file_containing_symbol": "inference.GRPCInferenceService.Nothing"}, 5),
        ({"file_containing_extension": {"containing_type": "inference.ModelInferRequest", "extension_number": 7}}, 5),
        ({"all_extension_numbers_of_type": "inference.Nothing"}, 5),
        ({}, 3),
    ],
)
def test_what_is_not_there_is_an_error_in_the_answer(request_: dict[str, Any], code: int) -> None:
    error = ask(**request_).error_response
    assert error.error_code == code
    assert error.error_message


def test_there_are_no_extensions() -> None:
    answer = ask(all_extension_numbers_of_type="inference.ModelInferRequest").all_extension_numbers_response
    assert answer.base_type_name == "inference.ModelInferRequest"
    assert list(answer.extension_number) == []
