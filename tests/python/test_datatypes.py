"""Names of element types, there and back."""

from headrace import _proto
from headrace.datatypes import data_type_of, datatype


def test_every_type_has_one_word_of_the_protocol() -> None:
    words = [datatype(number) for number in _proto.DataType]
    assert len(set(words)) == len(words)
    assert [data_type_of(word) for word in words] == [int(number) for number in _proto.DataType]
    assert datatype(_proto.DataType["TYPE_STRING"]) == "BYTES"
