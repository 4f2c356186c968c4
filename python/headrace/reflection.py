"""gRPC's server reflection: what services there are, and the files that describe them. Pure.

v1 and v1alpha differ in their names alone, so one function answers both.
"""

from typing import Any

from headrace import _proto

__all__ = ["SERVICES", "answer"]

SERVICES = (_proto.INFERENCE_SERVICE, _proto.HEALTH_SERVICE, *_proto.REFLECTION_SERVICES)
_INVALID_ARGUMENT, _NOT_FOUND = 3, 5
_FILES = {file.name: file for file in _proto.FILES.file}


def answer(request: Any, response_class: Any) -> Any:
    """The ServerReflectionResponse to a ServerReflectionRequest. Nothing is an exception: errors are responses."""
    response = response_class(valid_host=request.host, original_request=request)
    asked = request.WhichOneof("message_request")
    if asked == "list_services":
        for name in SERVICES:
            response.list_services_response.service.add(name=name)
    elif asked == "file_by_filename":
        _put_files(response, request.file_by_filename if request.file_by_filename in _FILES else None)
    elif asked == "file_containing_symbol":
        _put_files(response, _file_of(request.file_containing_symbol))
    elif asked == "all_extension_numbers_of_type":
        try:  # there are no extensions
            name = _proto.POOL.FindMessageTypeByName(request.all_extension_numbers_of_type).full_name
            response.all_extension_numbers_response.base_type_name = name
        except KeyError:
            _put_files(response, None)
    elif asked == "file_containing_extension":
        _put_files(response, None)
    else:
        response.error_response.error_code = _INVALID_ARGUMENT
        response.error_response.error_message = "the request asks for nothing"
    return response


def _file_of(symbol: str) -> str | None:
    service, _, method = symbol.rpartition(".")
    if f"/{service}/{method}" in _proto.METHODS:  # not every release of protobuf finds a method by its name
        symbol = service
    try:
        return str(_proto.POOL.FindFileContainingSymbol(symbol).name)
    except KeyError:
        return None


def _put_files(response: Any, name: str | None) -> None:
    """The file and those that it imports, or that there is no such thing."""
    if name is None:
        kind = response.original_request.WhichOneof("message_request")
        what = getattr(response.original_request, kind)
        response.error_response.error_code = _NOT_FOUND
        response.error_response.error_message = f"{kind} '{getattr(what, 'containing_type', what)}' is not served here"
        return
    waiting, sent = [name], dict[str, bytes]()
    while waiting:
        file = _FILES[waiting.pop(0)]
        if file.name not in sent:
            sent[file.name] = file.SerializeToString()
            waiting += file.dependency
    response.file_descriptor_response.file_descriptor_proto.extend(sent.values())
