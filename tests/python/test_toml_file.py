"""A configuration file that is there, is not, and is something else."""

from pathlib import Path

import pytest

from headrace.toml_file import read_toml


def test_what_stands_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("lanes = 2\n")
    assert read_toml(str(file)) == {"lanes": 2}


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read: No such file"), (b"lanes", "is not TOML"), (b"\xff", "is not TOML")]
)
def test_what_cannot_be_read(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "a.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_toml(str(file))
