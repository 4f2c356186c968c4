"""What config.pbtxt says of a model's share: weight, and the rate limiter's resources."""

import pytest

from headrace import config, model_config
from headrace.errors import InvalidArgument
from headrace.model_config import ModelSettings

HOST = config.Host(cores=8, memory_bytes=16 * config.GIB)
LIMITING = config.resolve({"rate_limit": "execution_count"}, host=HOST)


def limited(text: str) -> ModelSettings:
    return model_config.read("m", text, LIMITING)


def test_a_batch_needs_what_the_rate_limiter_names() -> None:
    settings = limited(
        'instance_group { rate_limiter { resources { name: "R1" count: 2 } '
        'resources { name: "r2" global: true count: 1 } } }'
    )
    assert settings.batching["resources"] == [
        {"name": "r1", "device": 0, "count": 2},
        {"name": "r2", "device": -1, "count": 1},
    ]
    assert settings.warnings == ()


def test_where_groups_differ_the_model_needs_the_most_that_one_asks() -> None:
    settings = limited(
        'instance_group { rate_limiter { resources { name: "r" count: 2 } } } '
        'instance_group { rate_limiter { resources { name: "r" count: 3 } } }'
    )
    assert settings.batching["resources"] == [{"name": "r", "device": 0, "count": 3}]
    assert "all of the model's lanes take the most that one asks" in settings.warnings[0]


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ('resources { name: "" count: 1 }', "give 1 to 256 characters"),
        ('resources { name: "a:b" count: 1 }', "no ':'"),
        ('resources { name: "r" }', "count is 0: it must be 1 to 1000000"),
        ('resources { name: "r" count: 1 } resources { name: "R" count: 1 }', "stands there twice"),
        ('resources { name: "r" count: 1 } resources { name: "r" global: true count: 1 }', "global in one place only"),
    ],
)
def test_a_rate_limiter_that_cannot_be(resources: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        limited(f"instance_group {{ rate_limiter {{ {resources} }} }}")
    assert words in raised.value.message


def weight_of(text: str) -> float:
    return limited(text).batching["weight"]


def test_a_weight_is_a_parameter_and_priorities_divide_it() -> None:
    parameter = 'parameters { key: "weight" value { string_value: "%s" } } '
    limiter = "instance_group { rate_limiter { priority: %d } }"
    assert weight_of("") == 1
    assert weight_of(parameter % "2.5") == 2.5
    assert weight_of(limiter % 4) == 0.25
    assert weight_of(limiter % 0) == 1
    assert weight_of(parameter % "3" + limiter % 2) == 1.5
    assert weight_of(limiter % 4_000_000) == 0.01
    assert limited(parameter % "2").warnings == ()
    off = model_config.read("m", limiter % 4, config.resolve({}, host=HOST))
    assert off.batching["weight"] == 1
    assert "no effect without --rate-limit execution_count" in off.warnings[0]


@pytest.mark.parametrize("text", ["", "0", "-1", "0.009", "100.5", "heavy", "1e2", "nan"])
def test_a_weight_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"weight is '.*': it must be a number from 0.01 to 100"):
        weight_of(f'parameters {{ key: "weight" value {{ string_value: "{text}" }} }}')
