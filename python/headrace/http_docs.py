"""The API page: an OpenAPI 3.1 document made of what is served, and one HTML page that shows it and lets people try it.

The page loads nothing from anywhere else: no script, style or font of another host.
"""

from importlib import resources
from typing import Any
from urllib.parse import quote

from headrace.http_message import Response
from headrace.service import ModelDescription, Service

__all__ = ["document", "example", "page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
_INTEGERS = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
_MOST_EXAMPLE_VALUES = 4096  # of one tensor: an example is for people

_ERROR = {
    "description": "What is wrong, in one sentence",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
}
_SCHEMAS: dict[str, Any] = {
    "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    "Tensor": _TENSOR,
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                },
            },
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "ModelMetadata": {
        "type": "object",
        "required": ["name", "versions", "platform", "inputs", "outputs"],
        "properties": {
            "name": {"type": "string"},
            "versions": {"type": "array", "items": {"type": "string"}},
            "platform": {"type": "string"},
            "inputs": {"type": "array", "items": {"type": "object"}},
            "outputs": {"type": "array", "items": {"type": "object"}},
        },
    },
}


def page() -> Response:
    """The page at /docs."""
    body = resources.files("headrace").joinpath("docs.html").read_bytes()
    headers = (("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", _POLICY))
    return Response(200, body, headers)


async def document(service: Service) -> dict[str, Any]:
    """The OpenAPI document of a server, with the paths of each model that it serves now."""
    about = service.server_metadata()
    paths = dict(_server_paths())
    for row in await service.repository_index(ready=True):
        model = service.model_metadata(row.name, row.version)
        paths |= _model_paths(model, "") | _model_paths(model, row.version)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{about.name} inference server",
            "version": about.version,
            "description": "The Open Inference Protocol (v2) over HTTP, with the extensions that /v2 lists.",
        },
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }


def example(model: ModelDescription) -> dict[str, Any]:
    """A request that the model takes: zeros, and dimensions of one where any size goes."""
    return {"inputs": [_example_tensor(tensor) for tensor in model.inputs]}


def _example_tensor(tensor: Any) -> dict[str, Any]:
    shape = [max(dim, 1) if dim < 0 else dim for dim in tensor["shape"]]
    count = 1
    for dim in shape:
        count *= dim
    kind = tensor["datatype"]
    value: Any = 0 if kind in _INTEGERS else False if kind == "BOOL" else "text" if kind == "BYTES" else 0.0
    return {
        "name": tensor["name"],
        "datatype": kind,
        "shape": shape,
        "data": [value] * min(count, _MOST_EXAMPLE_VALUES),
    }


def _answers(description: str, schema: str = "") -> dict[str, Any]:
    good: dict[str, Any] = {"description": description}
    if schema:
        good["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"200": good, "default": _ERROR}


def _get(summary: str, tag: str, schema: str = "") -> dict[str, Any]:
    return {"get": {"summary": summary, "tags": [tag], "responses": _answers(summary, schema)}}


def _post(summary: str, tag: str, body: dict[str, Any], schema: str = "", *, required: bool = True) -> dict[str, Any]:
    content = {"application/json": body}
    asked = {"required": required, "content": content}
    return {"post": {"summary": summary, "tags": [tag], "requestBody": asked, "responses": _answers(summary, schema)}}


def _server_paths() -> dict[str, Any]:
    anything = {"schema": {"type": "object"}}
    name = _named("model")
    load = _post("Load a model, or load it again", "repository", anything, required=False)
    unload = _post("Unload a model", "repository", anything, required=False)
    return {
        "/v2": _get("The server: name, version, extensions", "server"),
        "/v2/health/live": _get("The process answers", "server"),
        "/v2/health/ready": _get("Requests are welcome", "server"),
        "/v2/models/stats": _get("Counters of all models", "server"),
        "/v2/repository/index": _post("What there is, and its state", "repository", anything, required=False),
        "/v2/repository/models/{model}/load": load | {"parameters": name},
        "/v2/repository/models/{model}/unload": unload | {"parameters": name},
        "/v2/trace/setting": _get("Settings of tracing", "settings") | _post("Change them", "settings", anything),
        "/v2/logging": _get("Settings of the log", "settings") | _post("Change them", "settings", anything),
        **_shared_memory_paths("system"),
        **_shared_memory_paths("cuda"),
    }


def _named(what: str) -> list[dict[str, Any]]:
    return [{"name": what, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]


def _shared_memory_paths(kind: str) -> dict[str, Any]:
    base, tag, region = f"/v2/{kind}sharedmemory", "shared memory", {"parameters": _named("region")}
    anything = {"schema": {"type": "object"}}
    unregister = _post("Unregister a region", tag, anything, required=False)
    return {
        f"{base}/status": _get(f"Registered regions of {kind} memory", tag),
        f"{base}/unregister": _post("Unregister all regions", tag, anything, required=False),
        f"{base}/region/{{region}}/status": _get("A registered region", tag) | region,
        f"{base}/region/{{region}}/register": _post("Register a region", tag, anything) | region,
        f"{base}/region/{{region}}/unregister": unregister | region,
    }


def _model_paths(model: ModelDescription, version: str) -> dict[str, Any]:
    base = f"/v2/models/{quote(model.name, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")
    tag = f"model {model.name}"
    request = {"schema": {"$ref": "#/components/schemas/InferRequest"}, "example": example(model)}
    flat = {"schema": {"type": "object"}}
    infer = _post("Infer", tag, request, "InferResponse")
    stream = _post("The same, each answer as an event", tag, flat)
    stream["post"]["responses"]["200"]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    trace = _get("Settings of its tracing", tag) | _post("Change them", tag, flat)
    predict = f"/v1{base.removeprefix('/v2')}"
    return {
        base: _get("Signature and versions", tag, "ModelMetadata"),
        f"{base}/ready": _get("It can be asked", tag),
        f"{base}/config": _get("Its whole configuration", tag),
        f"{base}/stats": _get("Its counters", tag),
        f"{base}/scheduler": _get("What its scheduler has learnt, and why its last batches were closed", tag),
        f"{base}/infer": infer,
        f"{base}/generate": _post("Infer, with a flat object in and out", tag, flat),
        f"{base}/generate_stream": stream,
        predict: _get("Its state, as TensorFlow Serving says it", tag),
        f"{predict}:predict": _post("Infer, in TensorFlow Serving's form", tag, flat),
        **({} if version else {f"{base}/trace/setting": trace}),
    }
