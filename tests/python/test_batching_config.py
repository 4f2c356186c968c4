"""What config.pbtxt's rate limiter says of a batch's needs."""

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
