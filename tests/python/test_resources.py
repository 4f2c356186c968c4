"""Limits of named resources, as people write them."""

import pytest

from headrace.resources import WHOLE_SERVER, resource_limits


def test_a_limit_is_a_count_of_a_name_on_one_device_or_on_each() -> None:
    assert resource_limits(["R1:4", "r1:2:1", "other:1"]) == [
        {"name": "r1", "device": WHOLE_SERVER, "count": 4},
        {"name": "r1", "device": 1, "count": 2},
        {"name": "other", "device": WHOLE_SERVER, "count": 1},
    ]


@pytest.mark.parametrize("word", ["", "r", "r:", ":1", "r:0", "r:-1", "r:1:x", "r:1:2:3", "a b:1", "r:1000001"])
def test_what_is_none_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"give NAME:COUNT or NAME:COUNT:DEVICE, with a count of 1 to 1000000"):
        resource_limits([word])


def test_two_counts_of_one_thing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has two counts of 'R' for the same device: give one"):
        resource_limits(["r:1", "R:2"])
