"""The table of statuses: complete, without doubles, and the same numbers as gRPC's."""

import grpc
import pytest

from headrace import errors


def test_every_status_of_grpc_but_ok_has_one_row() -> None:
    ours = {row.name: row.code for row in errors.TABLE}
    assert ours == {code.name: code.value[0] for code in grpc.StatusCode if code.name != "OK"}
    assert len(errors.TABLE) == len(ours)


@pytest.mark.parametrize("row", errors.TABLE, ids=lambda row: row.name)
def test_a_row_and_its_exception_belong_together(row: errors.Status) -> None:
    error = errors.from_code(row.code, "no such thing")
    assert type(error) is row.exception
    assert error.code == row.code
    assert error.message == str(error) == "no such thing"
    assert errors.status_of(error) == row
    assert 400 <= row.http < 600


def test_an_unknown_number_is_unknown() -> None:
    assert type(errors.from_code(99, "x")) is errors.Unknown


def test_what_stops_a_start_is_not_a_status() -> None:
    assert not issubclass(errors.StartError, errors.HeadraceError)
