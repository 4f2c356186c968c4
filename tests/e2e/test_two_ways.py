"""A request over HTTP/1.1 means the same whether the core takes its head or the whole parser does, and nobody can hide
a request in another: what comes behind one gets its own answer, or the connection ends.

The parser's way is forced by a request before it, in the same read, that is not an inference: the core takes nothing
behind one that it leaves.
"""

import json
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server_process import ServerProcess

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HIDDEN = b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\n\r\n"
STALL_SECONDS = 0.25


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model that gives INT32[n] back; half a request gets its 408 soon."""
    repository = tmp_path_factory.mktemp("ways")
    folder = repository / "m" / "1"
    folder.mkdir(parents=True)
    (repository / "m" / "config.pbtxt").write_text('backend: "echo"')
    (folder / "model.echo").write_text("input x INT32 [-1]\n")
    with ServerProcess(repository, "--lanes", "1", "--message-stall-seconds", str(STALL_SECONDS)) as running:
        yield running
        assert running.stop() == 0
        assert "0 bytes in 0 blocks in use" in running.output()


@dataclass(frozen=True)
class Answer:
    """What a client sees of one answer, but for what is Date's or the connection's."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def body_of(values: list[int], name: str = "") -> bytes:
    tensor = {"name": "x", "datatype": "INT32", "shape": [len(values)], "data": values}
    return json.dumps({"inputs": [tensor], "id": name}).encode()


def second(number: int) -> bytes:
    body = body_of([number], "second")
    return b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def exchange(address: str, sent: bytes, head: int = -1) -> list[Answer]:
    """All answers until the server ends the connection; that of number `head` has no body."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(sent)
        received = bytearray()
        while piece := client.recv(1 << 16):
            received += piece
    answers: list[Answer] = []
    while received:
        head_bytes, _, rest = bytes(received).partition(b"\r\n\r\n")
        lines = head_bytes.decode("latin-1").split("\r\n")
        headers = tuple(
            sorted((name.lower(), value) for name, _, value in (line.partition(": ") for line in lines[1:]))
        )
        bare = len(answers) == head and not rest.startswith(
            b"{"
        )  # one of what is not HTTP has a body, whatever it asked
        length = 0 if bare else int(dict(headers).get("content-length", "0"))
        assert lines[0].startswith("HTTP/1.1 ")
        assert len(rest) >= length
        if lines[0] != "HTTP/1.1 100 Continue":
            answers.append(Answer(int(lines[0].split(" ")[1]), headers, rest[:length]))
        del received[: len(head_bytes) + 4 + length]
    return answers


# What is in a request, each as clients write it and a little off.
METHODS = ["POST"] * 30 + ["GET", "PUT", "post", "HEAD", "OPTIONS", "CONNECT", " POST", "POST ", "P\0ST"]
TARGETS = ["/v2/models/m/infer"] * 60 + [
    "/v2/models/m/versions/1/infer",
    "/v2/models/m/versions/01/infer",
    "/v2/models/m/versions/2/infer",
    "/v2/models/m/versions//infer",
    "/v2/models/m/labels/a/infer",
    "/v2/models/n/infer",
    "/v2/models/./infer",
    "/v2/models/../infer",
    "/v2/models/m/../m/infer",
    "/v2//models/m/infer",
    "/v2/models/m/infer/",
    "/v2/models/m/infer?a=b",
    "/v2/models/m/infer#a",
    "/v2/models/%6d/infer",
    "/v2/models/m%2Finfer",
    "/v2/models/m%00/infer",
    "/v2/models/m%zz/infer",
    "/v2/models/\u00e9/infer",
    "/V2/models/m/infer",
    "http://a/v2/models/m/infer",
    "http://a:1/v2/models/m/infer?x",
    "a:1",
    "*",
    "",
]
VERSIONS = ["HTTP/1.1"] * 40 + ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 ", "HTTP/1", ""]
ENDS = ["\r\n"] * 120 + ["\n", "\r", "\r\r\n", "\n\n", " \r\n"]
BLANKS = ["", " ", " ", " ", "  ", "\t", " \t "]
LENGTHS = ["{n}"] * 50 + [
    "0{n}",
    "000000000000{n}",
    "0000000000000000{n}",
    "+{n}",
    "-{n}",
    "{n}.0",
    "{n}, {n}",
    "{n},",
    "{n} {n}",
    "0x{n}",
    "{n}_0",
    "1_0",
    "",
    "a",
    "{more}",
    "{less}",
    "0",
    "99999999999",
    "999999999999999",
    "9999999999999999",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "\u00b2",
]
OTHERS = [
    ("Host", "a"),
    ("User-Agent", 'x/1 (y; z) "q"'),
    ("Content-Type", "application/json"),
    ("Content-Type", "application/grpc-web"),
    ("Accept", "*/*"),
    ("X-Any", ""),
    ("X-Long", "v" * 300),
    ("X-High", "\u00e9"),
    ("X-Nul", "a\0b"),
    ("X-Escape", "\x1b[0m"),
    ("X-Folded", "a\r\n b"),
    ("X-Folded", "\r\n\tTransfer-Encoding: chunked"),
    ("X Space", "a"),
    ("X-Space ", "a"),
    (" X-Space", "a"),
    ("", "a"),
    ("Content-Length ", "3"),
    ("Content_Length", "3"),
    ("Content-Length\0", "3"),
    ("Accept-Encoding", "gzip"),
    ("Accept-Encoding", "deflate, gzip"),
    ("Accept-Encoding", "deflate,\tx-gzip"),
    ("Accept-Encoding", "gzip;q=0"),
    ("Accept-Encoding", "br;q=1, *;q=0.5"),
    ("Accept-Encoding", "deflate"),
    ("Connection", "keep-alive"),
    ("Connection", "Keep-Alive"),
    ("Connection", "close"),
    ("Connection", "keep-alive, close"),
    ("Connection", "upgrade"),
    ("Proxy-Connection", "keep-alive"),
    ("Upgrade", "h2c"),
    ("Expect", "100-continue"),
    ("Expect", "x"),
    ("TE", "trailers"),
    ("Trailer", "a"),
    ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "Chunked"),
    ("Transfer-Encoding", "gzip, chunked"),
    ("Transfer-Encoding", "chunked, identity"),
    ("Transfer-Encoding", "identity"),
    ("Transfer-Encoding", "xchunked"),
    ("Transfer-Encoding", "\x0bchunked"),
    ("Transfer-Encoding", ""),
    ("Content-Encoding", "identity"),
    ("Content-Encoding", "gzip"),
    ("Origin", "http://a"),
    ("grpc-timeout", "20S"),
    ("grpc-timeout", "1x"),
    ("Inference-Header-Content-Length", "{n}"),
    ("Inference-Header-Content-Length", "0{n}"),
    ("Inference-Header-Content-Length", "{more}"),
    ("Inference-Header-Content-Length", "{less}"),
    ("Inference-Header-Content-Length", "0"),
    ("Inference-Header-Content-Length", "-1"),
    ("Inference-Header-Content-Length", ""),
    ("Inference-Header-Content-Length", "9999999999999999"),
]
PLAIN = {"Host", "User-Agent", "Content-Type", "Accept", "X-Any", "X-Long", "Accept-Encoding", "Connection"}


@dataclass(frozen=True)
class Made:
    """The bytes of a request, and what is known of them."""

    sent: bytes
    right: bool  # everything in it is as it should be
    other_end: bool  # its head says, in good order, that its body ends elsewhere
    head: bool  # its answer has no body


@st.composite
def requests(draw: st.DrawFn) -> Made:
    """A request, with a few things in it that are not as they should be."""
    values = draw(st.lists(st.integers(-9, 9), max_size=3))
    body = draw(
        st.sampled_from([body_of(values, "first")] * 12 + [body_of([1] * 300), HIDDEN, HIDDEN + HIDDEN, b"{", b""])
    )
    lengths = draw(
        st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=1) | st.lists(st.sampled_from(LENGTHS), max_size=2)
    )
    pairs = [("Content-Length", text) for text in lengths] + draw(st.lists(st.sampled_from(OTHERS), max_size=3))
    pairs = draw(st.permutations(pairs))
    first = (draw(st.sampled_from(METHODS)), draw(st.sampled_from(TARGETS)), draw(st.sampled_from(VERSIONS)))
    gap = draw(st.sampled_from([" "] * 40 + ["  ", "\t"]))
    ends = [draw(st.sampled_from(ENDS)) for _ in range(len(pairs) + 2)]
    chunked = any(name == "Transfer-Encoding" for name, _ in pairs) and draw(st.booleans())
    if chunked:
        size = draw(
            st.sampled_from(["{:x}"] * 8 + ["{:X};a=b", "0{:x}", "{:x} ", "0x{:x}", "+{:x}", "-{:x}", "{:x}\n"])
        )
        tail = draw(
            st.sampled_from([b"0\r\n\r\n"] * 6 + [b"0\r\nX: y\r\n\r\n", b"0\r\nContent-Length: 9\r\n\r\n", b"0\n\n"])
        )
        body = size.format(len(body)).encode() + b"\r\n" + body + b"\r\n" + tail
    numbers = {"n": len(body), "more": len(body) + draw(st.integers(1, 40)), "less": max(0, len(body) - 3)}
    text = gap.join(first) + ends[0]
    for (name, value), end in zip(pairs, ends[1:], strict=False):
        blank = draw(st.sampled_from(BLANKS)), draw(st.sampled_from(BLANKS))
        text += f"{name}:{blank[0]}{value.format(**numbers) if '{' in value else value}{blank[1]}{end}"
    text += ends[-1]
    right = lengths == ["{n}"] and {name for name, _ in pairs} <= PLAIN | {"Content-Length"}
    right = right and gap == " " and first[0] == "POST" and first[2] == "HTTP/1.1" and set(ends) == {"\r\n"}
    right = right and first[1].startswith("/v2/models/m/") and not any("close" in value for _, value in pairs)
    right = right and ("Connection", "upgrade") not in pairs and all(first)
    framed = any(name == "Transfer-Encoding" for name, _ in pairs)
    other_end = not framed and (len(lengths) == 0 or (len(lengths) == 1 and lengths[0] in ("{more}", "{less}", "0")))
    return Made(text.encode("latin-1") + body, right, other_end, first[0] == "HEAD")


SEEN: Counter[str] = Counter()


SPACES_BEHIND = (
    b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length:89\r\nInference-Header-Content-Length:89 \t\r\n\r\n"
    b'{"inputs": [{"name": "x", "datatype": "INT32", "shape": [0], "data": []}], "id": "first"}'
)


@settings(max_examples=500, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(made=requests(), number=st.integers(0, 9999))
@example(made=Made(SPACES_BEHIND, right=False, other_end=False, head=False), number=0)
def check_both_ways(server: ServerProcess, made: Made, number: int) -> None:
    """One request, and behind it a second and the last."""
    behind = second(number) + LAST
    core = exchange(server.http, made.sent + behind, 0 if made.head else -1)
    parser = exchange(server.http, LIVE + made.sent + behind, 1 if made.head else -1)
    assert parser[0].status == 200
    assert core == parser[1:], made.sent
    assert all(answer.status < 500 for answer in core), made.sent
    SEEN[f"{core[0].status}"] += 1
    if not made.other_end and len(core) > 1:  # who is not sure where a request ends, ends the connection
        SEEN["followed"] += 1
        assert [answer.status for answer in core[1:]] == [200, 200], made.sent
        told = json.loads(core[1].body)
        assert (told["id"], told["outputs"][0]["data"]) == ("second", [number]), made.sent
    if made.right:
        SEEN["right"] += 1
        assert len(core) == 3, made.sent


def test_the_core_and_the_parser_agree(server: ServerProcess) -> None:
    SEEN.clear()
    check_both_ways(server)
    print(dict(SEEN))
    assert SEEN["right"] > 100
    assert SEEN["followed"] > SEEN["right"]
    assert SEEN["200"] > 50
    assert SEEN["400"] > 50
