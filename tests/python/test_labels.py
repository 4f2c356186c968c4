"""Labels of classes: one a line, in files inside the model's folder."""

from pathlib import Path

import pytest

from headrace import config, labels, model_config
from headrace.errors import InvalidArgument

HOST = config.Host(cores=4, memory_bytes=8 * config.GIB)


def settings(text: str) -> model_config.ModelSettings:
    return model_config.read("m", text, config.resolve({}, host=HOST))


def of_file(name: str) -> model_config.ModelSettings:
    return settings(f'output {{ name: "y" label_filename: "{name}" }} output {{ name: "z" }}')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cat\ndog\n", ["cat", "dog"]),
        ("cat\r\ndog", ["cat", "dog"]),
        ("cat\n\n dog \n", ["cat", "", " dog "]),
        ("Grüße\n", ["Grüße"]),
        ("", []),
    ],
)
def test_one_label_a_line(tmp_path: Path, text: str, found: list[str]) -> None:
    (tmp_path / "names.txt").write_text(text, "utf-8", newline="")
    assert labels.read(of_file("names.txt"), tmp_path) == {"y": found}


def test_a_model_without_labels(tmp_path: Path) -> None:
    assert labels.read(settings('output { name: "y" }'), tmp_path) == {}


@pytest.mark.parametrize("name", ["../names.txt", "/etc/hostname", "link.txt", "folder/../../names.txt"])
def test_a_file_outside_of_the_folder_is_not_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "m"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "names.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "names.txt")
    with pytest.raises(InvalidArgument, match="label_filename of output 'y' of model 'm' leads out of") as raised:
        labels.read(of_file(name), folder)
    assert "secret" not in raised.value.message


def test_what_is_wrong_with_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"Gr\xfc\xdfe")
    (tmp_path / "folder.txt").mkdir()
    with (tmp_path / "large.txt").open("wb") as large:
        large.truncate((16 << 20) + 1)
    for name, words in (
        ("missing.txt", "No such file"),
        ("latin.txt", "not UTF-8"),
        ("folder.txt", "cannot be read"),
        ("large.txt", "over 16 MiB"),
    ):
        with pytest.raises(InvalidArgument, match=words) as raised:
            labels.read(of_file(name), tmp_path)
        assert "output 'y' of model 'm'" in raised.value.message
