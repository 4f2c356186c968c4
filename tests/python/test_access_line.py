"""One call is one line, whatever the client sends."""

from typing import Any

from headrace.access_line import access_line

ENTRY: Any = {
    "peer": "127.0.0.1:5",
    "path": "/a/B",
    "model": "m",
    "version": "1",
    "request_id": "",
    "code": 0,
    "request_bytes": 10,
    "response_bytes": 20,
    "rows": 1,
    "batch_rows": 4,
    "queue_ns": 1500,
    "compute_ns": 2500,
    "total_ns": 9999,
    "headers": [],
}


def test_an_access_line_is_one_line_whatever_the_client_sends() -> None:
    line = access_line(ENTRY)
    assert line == (
        "peer=127.0.0.1:5 path=/a/B model=m version=1 id= code=0 request_bytes=10 response_bytes=20 rows=1 "
        "batch_rows=4 queue_us=1 compute_us=2 total_us=9"
    )
    forged = access_line({**ENTRY, "request_id": 'x code=0\n"\u2028', "model": "é"})
    assert 'id="x code=0\\n\\"\\u2028"' in forged
    assert 'model="\\u00e9"' in forged
    assert len(forged.splitlines()) == 1
    headers = [("x-a", "b"), ("x-c", "d e=1\n\xff"), ("x-f", "")]
    with_headers = access_line({**ENTRY, "headers": headers})
    assert with_headers == line + ' header.x-a=b header.x-c="d e=1\\n\\u00ff" header.x-f='
