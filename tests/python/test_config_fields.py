"""The table of config.pbtxt's fields: none is missing, none is made up, and the page is made of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace import _proto
from headrace.config_fields import FIELDS, PARAMETERS, Treatment, markdown, row_of


def paths(descriptor: Any, prefix: str = "") -> Iterator[str]:
    for field in descriptor.fields:
        path = prefix + field.name
        yield path
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            message = message.fields_by_name["value"].message_type
        if message is not None:
            yield from paths(message, f"{path}.")


def test_every_field_of_every_message_has_a_row() -> None:
    every = list(paths(_proto.ModelConfig.DESCRIPTOR))
    assert len(every) > 100
    assert [path for path in every if row_of(path) is None] == []
    assert [path for path in FIELDS if path not in every] == []


def test_a_field_that_is_not_there_has_no_row() -> None:
    assert row_of("no_such_field") is None
    assert row_of("dynamic_batching.no_such_field") is None
    assert row_of("sequence_batching.oldest.preserve_ordering") is FIELDS["sequence_batching"]


def test_no_row_hides_behind_one_that_stands_for_all_below_it() -> None:
    whole = [path for path, row in FIELDS.items() if row.treatment in (Treatment.WARNED, Treatment.REFUSED)]
    assert [path for path in FIELDS for above in whole if path.startswith(above + ".")] == []


def test_the_page_has_every_row(root: Path) -> None:
    page = (root / "docs/config-pbtxt.md").read_text()
    assert markdown().rstrip() in page, "the table has changed: run make docs"
    assert all(f"`{name}`" in page for name in (*FIELDS, *PARAMETERS))
