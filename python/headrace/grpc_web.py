"""gRPC-Web: gRPC's messages in HTTP/1.1 bodies, as browsers can send and read them. Pure: bytes in, bytes out.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md. A body is frames of a flag byte, a length of four bytes
(big endian) and as many bytes; the last frame of an answer holds the trailers. The text form is base64 of that.
"""

import base64
import binascii
import enum
import struct
from urllib.parse import quote

from headrace.errors import InvalidArgument, Unimplemented
from headrace.http_message import Response

__all__ = [
    "WebForm",
    "answer",
    "failure",
    "finished",
    "frame",
    "frames",
    "from_text",
    "message_of",
    "messages_of",
    "to_text",
    "trailers",
    "web_form",
]

_FRAME = struct.Struct(">BI")
_COMPRESSED, _TRAILERS = 0x01, 0x80
# What may stand in grpc-message as it is: printable ASCII but for the percent sign.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class WebForm(enum.StrEnum):
    """How frames travel; the value is the answer's Content-Type."""

    BINARY = "application/grpc-web+proto"
    TEXT = "application/grpc-web-text+proto"


_FORMS = {
    b"application/grpc-web": WebForm.BINARY,
    b"application/grpc-web+proto": WebForm.BINARY,
    b"application/grpc-web-text": WebForm.TEXT,
    b"application/grpc-web-text+proto": WebForm.TEXT,
}


def web_form(content_type: bytes) -> WebForm | None:
    """The form that a Content-Type names; None when it is not gRPC-Web's."""
    return _FORMS.get(content_type.split(b";", 1)[0].strip().lower())


def message_of(body: bytes) -> bytes:
    """The one message of a request. InvalidArgument says what is wrong with the frames."""
    if len(body) < _FRAME.size:
        raise InvalidArgument(f"the body has {len(body)} bytes: a gRPC-Web message begins with a frame of 5")
    flag, size = _FRAME.unpack_from(body)
    if flag & _COMPRESSED:
        raise Unimplemented("the message is compressed: send it as it is, or with Content-Encoding")
    if flag:
        raise InvalidArgument(f"the first frame's flag is {flag}, not that of a message")
    if len(body) - _FRAME.size != size:
        have = len(body) - _FRAME.size
        raise InvalidArgument(f"the frame announces a message of {size} bytes, and {have} follow: one is taken")
    return body[_FRAME.size :]


def messages_of(body: bytes) -> list[bytes]:
    """The messages of a request that may have many. Errors as message_of's."""
    messages = []
    while body:
        end = _FRAME.size + (_FRAME.unpack_from(body)[1] if len(body) >= _FRAME.size else 0)
        messages.append(message_of(body[:end]))
        body = body[end:]
    return messages


def from_text(body: bytes) -> bytes:
    """The frames of a body in the text form. InvalidArgument: it is not base64."""
    # Several pieces may each have been padded.
    decoded = []
    try:
        for piece in body.replace(b"=", b"= ").replace(b"= =", b"==").split():
            decoded.append(base64.b64decode(piece, validate=True))
    except binascii.Error as error:
        raise InvalidArgument(f"the body is not base64, as grpc-web-text wants it: {error}") from None
    return b"".join(decoded)


def to_text(data: bytes) -> bytes:
    """The same in the text form, padded at its end."""
    return base64.b64encode(data)


def frame(message: bytes) -> bytes:
    """A message in its frame."""
    return _FRAME.pack(0, len(message)) + message


def frames(message: bytes) -> bytes:
    """A message and the trailers of success."""
    return frame(message) + trailers(0, "")


def trailers(code: int, text: str) -> bytes:
    """The last frame of an answer."""
    lines = f"grpc-status:{code}\r\n" + (f"grpc-message:{quote(text, safe=_PLAIN)}\r\n" if text else "")
    encoded = lines.encode("ascii")
    return _FRAME.pack(_TRAILERS, len(encoded)) + encoded


def answer(body: bytes, form: WebForm) -> Response:
    """The answer that these frames are."""
    return Response(200, to_text(body) if form is WebForm.TEXT else body, (("Content-Type", form.value),))


def failure(code: int, text: str, form: WebForm) -> Response:
    """The answer of a call that failed: no message, and trailers that say why."""
    return answer(trailers(code, text), form)


def finished(code: int, said: "bytes | list[bytes | memoryview] | str", form: WebForm) -> Response:
    """What the core says of a call: its frames, or why it failed."""
    if code:
        return failure(code, str(said), form)
    return answer(said if isinstance(said, bytes) else b"".join(said), form)  # type: ignore[arg-type]  # no text
