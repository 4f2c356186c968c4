"""Every status that Headrace can answer with, in one table: gRPC's name and number, HTTP's status, the exception class.

Raise the exception where the fault is found; the gRPC server and the HTTP gateway look the rest up here.
"""

from typing import NamedTuple

__all__ = ["TABLE", "HeadraceError", "StartError", "Status", "from_code", "status_of"]


class HeadraceError(Exception):
    """A status for a caller: `message` is one sentence that names the thing, the limit and the remedy."""

    code: int = 2

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Cancelled(HeadraceError):
    """The caller went away."""

    code = 1


class Unknown(HeadraceError):
    """A status that nobody could name."""

    code = 2


class InvalidArgument(HeadraceError):
    """The request, or a file of the operator, is wrong as it stands."""

    code = 3


class DeadlineExceeded(HeadraceError):
    """The caller's time is over."""

    code = 4


class NotFound(HeadraceError):
    """No such model, version, service or file."""

    code = 5


class AlreadyExists(HeadraceError):
    """The name is taken."""

    code = 6


class PermissionDenied(HeadraceError):
    """The caller is known and may not do this."""

    code = 7


class ResourceExhausted(HeadraceError):
    """A bound is reached: try again later, or raise the named limit."""

    code = 8


class FailedPrecondition(HeadraceError):
    """Something else must be done first, such as installing a runtime."""

    code = 9


class Aborted(HeadraceError):
    """Another call got in between."""

    code = 10


class OutOfRange(HeadraceError):
    """Past the end of what there is."""

    code = 11


class Unimplemented(HeadraceError):
    """This server does not do that."""

    code = 12


class Internal(HeadraceError):
    """A fault of the server or of the runtime; the log says more."""

    code = 13


class Unavailable(HeadraceError):
    """Not now: loading, broken, or shutting down."""

    code = 14


class DataLoss(HeadraceError):
    """Bytes are missing that cannot be had again."""

    code = 15


class Unauthenticated(HeadraceError):
    """The caller did not say who it is."""

    code = 16


class StartError(Exception):
    """The server cannot start: one clear line for the operator. Never sent to a caller."""


class Status(NamedTuple):
    """One row of the table."""

    code: int
    name: str
    http: int
    exception: type[HeadraceError]


TABLE: tuple[Status, ...] = (
    Status(1, "CANCELLED", 499, Cancelled),
    Status(2, "UNKNOWN", 500, Unknown),
    Status(3, "INVALID_ARGUMENT", 400, InvalidArgument),
    Status(4, "DEADLINE_EXCEEDED", 504, DeadlineExceeded),
    Status(5, "NOT_FOUND", 404, NotFound),
    Status(6, "ALREADY_EXISTS", 409, AlreadyExists),
    Status(7, "PERMISSION_DENIED", 403, PermissionDenied),
    Status(8, "RESOURCE_EXHAUSTED", 429, ResourceExhausted),
    Status(9, "FAILED_PRECONDITION", 400, FailedPrecondition),
    Status(10, "ABORTED", 409, Aborted),
    Status(11, "OUT_OF_RANGE", 400, OutOfRange),
    Status(12, "UNIMPLEMENTED", 501, Unimplemented),
    Status(13, "INTERNAL", 500, Internal),
    Status(14, "UNAVAILABLE", 503, Unavailable),
    Status(15, "DATA_LOSS", 500, DataLoss),
    Status(16, "UNAUTHENTICATED", 401, Unauthenticated),
)
_BY_CODE = {row.code: row for row in TABLE}


def from_code(code: int, message: str) -> HeadraceError:
    """The exception for gRPC's number `code`; a number outside the table gives `Unknown`."""
    row = _BY_CODE.get(code)
    return row.exception(message) if row else Unknown(message)


def status_of(error: HeadraceError) -> Status:
    """The row of the table that `error` belongs to."""
    return _BY_CODE[error.code]
