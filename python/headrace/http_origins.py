"""Which sites' pages may use this server, and the CORS headers that tell their browsers so."""

from headrace.config import Config
from headrace.errors import PermissionDenied
from headrace.http_message import Request

__all__ = ["Origins"]


class Origins:
    """The allow-list of --cors-allow-origin."""

    def __init__(self, config: Config) -> None:
        self._allowed = config.cors_allow_origin

    def check(self, request: Request) -> None:
        """A page of another site must not change this server: its browser sends simple requests without asking first.
        PermissionDenied names the flag."""
        origin = request.origin
        if not origin or origin.partition("://")[2] == request.host or self.allows(origin):
            return
        raise PermissionDenied(
            f"pages of {origin} may not change this server: start it with --cors-allow-origin {origin} if they should"
        )

    def headers(self, origin: str, method: bytes, allow: str, forwarded: str = "") -> bytes:
        """Header lines of an answer to a page of `origin`; of a preflight's too, which tells of the methods `allow`.
        `forwarded`: names, each with a comma before, of further headers that the page may send."""
        if not self.allows(origin):
            return b""
        lines = [
            f"Access-Control-Allow-Origin: {origin}",
            "Vary: Origin",
            "Access-Control-Expose-Headers: Inference-Header-Content-Length, Retry-After",
        ]
        if method == b"OPTIONS":
            lines += [
                f"Access-Control-Allow-Methods: {allow}",
                "Access-Control-Allow-Headers: Content-Type, Content-Encoding, Inference-Header-Content-Length, "
                f"grpc-timeout, x-grpc-web, x-user-agent{forwarded}",
                "Access-Control-Max-Age: 600",
            ]
        return "".join(line + "\r\n" for line in lines).encode("latin-1")

    def allows(self, origin: str) -> bool:
        """Whether pages of `origin` may use this server."""
        return origin in self._allowed or "*" in self._allowed
