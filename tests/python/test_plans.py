"""TensorRT plans: what config.pbtxt must say of them, and what becomes of it."""

import pytest

from headrace import config, model_config
from headrace.errors import InvalidArgument
from headrace.model_config import ModelSettings

CONFIG = config.resolve({"lanes": 4}, host=config.Host(cores=8, memory_bytes=16 * config.GIB))


def read(text: str | None) -> ModelSettings:
    return model_config.read("m", text, CONFIG)


PLAN = """
    platform: "tensorrt_plan" max_batch_size: 8
    input { name: "x" data_type: TYPE_FP32 dims: [ 3, -1 ] } output { name: "y" data_type: TYPE_FP16 dims: [ 10 ] }
"""


def test_a_plan_states_its_signature_in_the_file() -> None:
    found = read(PLAN)
    assert (found.backend, found.filename, found.max_batch_size) == ("tensorrt", "model.plan", 8)
    assert found.session["stated"] == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, -1], "optional": False}],
        "outputs": [{"name": "y", "datatype": "FP16", "shape": [-1, 10], "optional": False}],
    }
    assert found.session["providers"] == [{"name": "tensorrt", "options": {"device_id": "0"}, "asked_for": True}]
    assert "stated" not in read(None).session
    whole = read(PLAN.replace("max_batch_size: 8", 'backend: "tensorrt"'))
    assert whole.session["stated"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [3, -1], "optional": False}]
    assert (whole.batching["decided"], whole.batching["max_batch_size"]) == (True, 0)
    assert model_config.platform_of("tensorrt") == "tensorrt_plan"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (PLAN, 'backend: "tensorrt"', "write every input of it here"),
        (PLAN[PLAN.index("output") :], "", "write every output of it here"),
        ("TYPE_FP16", "TYPE_STRING", "output 'y' is TYPE_STRING, which TensorRT lacks"),
        ("data_type: TYPE_FP32", "", "input 'x' is TYPE_INVALID, which TensorRT lacks"),
        ("max_batch_size: 8", "instance_group { kind: KIND_CPU }", "instance_group says KIND_CPU"),
    ],
)
def test_what_a_plan_lacks_is_named(old: str, new: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read(PLAN.replace(old, new))
    assert words in raised.value.message
