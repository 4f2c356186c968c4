"""Which pages may use the server."""

from types import SimpleNamespace
from typing import Any

import pytest

from headrace.errors import PermissionDenied
from headrace.http_message import Request
from headrace.http_origins import Origins


def origins(*allowed: str) -> Origins:
    config: Any = SimpleNamespace(cors_allow_origin=allowed)
    return Origins(config)


def test_cors_by_allow_list() -> None:
    assert origins().headers("https://a", b"POST", "POST, OPTIONS") == b""
    told = origins("https://a").headers("https://a", b"POST", "POST, OPTIONS")
    assert b"Access-Control-Allow-Origin: https://a\r\n" in told
    assert b"Vary: Origin\r\n" in told
    assert b"Allow-Methods" not in told


def test_a_preflight_is_told_of_methods_and_headers() -> None:
    told = origins("*").headers("https://b", b"OPTIONS", "POST, OPTIONS", ", x-mine")
    assert b"Access-Control-Allow-Methods: POST, OPTIONS\r\n" in told
    assert b"x-user-agent, x-mine\r\n" in told


def test_only_pages_of_this_site_or_a_known_one_may_change_the_server() -> None:
    asked = Request("POST", (), origin="https://a", host="b:8000")
    with pytest.raises(PermissionDenied, match="--cors-allow-origin https://a"):
        origins("https://c").check(asked)
    origins("https://a").check(asked)
    origins().check(Request("POST", (), origin="http://b:8000", host="b:8000"))
    origins().check(Request("POST", ()))
