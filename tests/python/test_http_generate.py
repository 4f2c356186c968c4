"""The generate extension: flat objects to tensors."""

import json
from typing import Any

import pytest

from headrace.errors import InvalidArgument
from headrace.http_generate import Generation
from headrace.http_message import IDENTITY
from headrace.service import ModelDescription


def tensor(name: str, datatype: str, *shape: int) -> Any:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


MODEL = ModelDescription(
    "m", ["1"], "p", [tensor("text", "BYTES", -1, 1), tensor("scale", "FP32", -1), tensor("grid", "INT32", 2, 2)], []
)


def asked(**members: Any) -> Any:
    return json.loads(Generation(MODEL, members, IDENTITY).request)


def test_members_are_inputs_parameters_and_the_id() -> None:
    request = asked(text="hello", id="q", parameters={"scale": 2.5, "temperature": 1}, grid=[[1, 2], [3, 4]])
    assert request["id"] == "q"
    assert request["parameters"] == {"temperature": 1}
    inputs = {row.pop("name"): row for row in request["inputs"]}
    assert inputs["text"] == {"datatype": "BYTES", "shape": [1, 1], "data": ["hello"]}
    assert inputs["scale"] == {"datatype": "FP32", "shape": [1], "data": [2.5]}
    assert inputs["grid"] == {"datatype": "INT32", "shape": [2, 2], "data": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"other": 1}, "no input 'other'.*'text', 'scale', 'grid'"),
        ({"grid": [[1, 2], [3]]}, "ragged"),
        ({"grid": [[1, 2], 3]}, "ragged"),
        ({"parameters": []}, "JSON object"),
    ],
)
def test_what_is_no_request(members: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        asked(**members)


def test_arrays_have_a_depth() -> None:
    nested: Any = 1
    for _ in range(100):
        nested = [nested]
    with pytest.raises(InvalidArgument, match="32 arrays"):
        asked(grid=nested)
