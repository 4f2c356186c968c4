"""An ASGI application that answers a POST with its own body, for uvicorn in benchmarks/serving/http_binary.py."""

from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Reads the whole body and sends it back."""
    if scope["type"] != "http":
        return
    pieces = []
    more = True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(pieces)
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
