"""gRPC-Web's frames: what is taken, what is refused, and what is answered."""

import base64
import struct

import pytest

from headrace import grpc_web
from headrace.errors import InvalidArgument, Unimplemented
from headrace.grpc_web import WebForm


def frame(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        (b"application/grpc-web", WebForm.BINARY),
        (b"application/grpc-web+proto", WebForm.BINARY),
        (b"Application/gRPC-Web-Text; charset=utf-8", WebForm.TEXT),
        (b"application/grpc-web-text+proto", WebForm.TEXT),
        (b"application/grpc-web+json", None),
        (b"application/grpc", None),
        (b"", None),
    ],
)
def test_a_content_type_names_a_form(content_type: bytes, form: WebForm | None) -> None:
    assert grpc_web.web_form(content_type) is form


def test_a_message_is_taken_out_of_its_frame() -> None:
    assert grpc_web.message_of(frame(b"abc")) == b"abc"
    assert grpc_web.message_of(frame(b"")) == b""


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        (b"", InvalidArgument, "0 bytes"),
        (frame(b"abc")[:-1], InvalidArgument, "a message of 3 bytes, and 2 follow"),
        (frame(b"abc") + frame(b"d"), InvalidArgument, "a message of 3 bytes, and 9 follow"),
        (frame(b"abc", 1), Unimplemented, "compressed"),
        (frame(b"abc", 0x80), InvalidArgument, "flag is 128"),
    ],
)
def test_what_is_not_one_message_is_refused(body: bytes, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        grpc_web.message_of(body)


def test_the_text_form_may_come_in_padded_pieces() -> None:
    whole = frame(b"some message of odd length")
    assert grpc_web.from_text(base64.b64encode(whole)) == whole
    for cut in range(1, len(whole)):
        pieces = base64.b64encode(whole[:cut]) + base64.b64encode(whole[cut:])
        assert grpc_web.from_text(pieces) == whole, cut


@pytest.mark.parametrize("text", [b"AAA", b"AA!A", b"=", b"A=AA", b"AAAA====", b"\xff\xff\xff\xff"])
def test_broken_base64_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidArgument, match="base64"):
        grpc_web.from_text(text)


def test_an_answer_ends_with_its_trailers() -> None:
    frames = grpc_web.frames(b"reply")
    assert frames == frame(b"reply") + frame(b"grpc-status:0\r\n", 0x80)
    binary, text = (grpc_web.answer(frames, form) for form in WebForm)
    assert binary.body == frames
    assert base64.b64decode(text.body) == frames
    assert dict(text.headers)["Content-Type"] == "application/grpc-web-text+proto"


def test_a_failure_is_its_trailers_alone() -> None:
    answer = grpc_web.failure(5, "model 'größe' is 100 % unknown\r\nreally", WebForm.BINARY)
    assert answer.status == 200
    said = b"grpc-status:5\r\ngrpc-message:model 'gr%C3%B6%C3%9Fe' is 100 %25 unknown%0D%0Areally\r\n"
    assert answer.body == frame(said, 0x80)
