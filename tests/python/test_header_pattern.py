"""Which names a pattern means."""

import pytest

from headrace.header_pattern import header_matcher


def matches(pattern: str, name: str) -> bool:
    matcher = header_matcher(pattern)
    assert matcher is not None
    return matcher(name) is not None


def test_the_empty_pattern_means_none() -> None:
    assert header_matcher("") is None


def test_the_whole_name_in_any_case() -> None:
    assert matches("X-Tenant", "x-tenant")
    assert matches("x-.*|priority", "x-")
    assert matches("x-.*|priority", "priority")
    assert not matches("tenant", "x-tenant")
    assert not matches("x", "x-tenant")


def test_the_case_counts_where_it_is_asked_to() -> None:
    assert matches("(?-i)x-tenant", "x-tenant")
    assert not matches("(?-i)X-Tenant", "x-tenant"), "names are in lower case here"
    assert matches("(?i)X-Tenant", "x-tenant")


@pytest.mark.parametrize("pattern", ["(", "[", "*", "x{9999999999999}", "(" * 5000 + ")" * 5000, "(?P<a>x)(?P<a>y)"])
def test_what_is_no_regular_expression(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        header_matcher(pattern)
