"""What config.pbtxt's model_warmup asks for, and the files that it names."""

from pathlib import Path
from typing import Any

import pytest

from headrace import config, model_config, warmup
from headrace.errors import InvalidArgument

HOST = config.Host(cores=4, memory_bytes=8 * config.GIB)


def read(text: str, folder: Path) -> Any:
    return warmup.read(model_config.read("m", text, config.resolve({}, host=HOST)), folder)


def sample(data: str, more: str = "data_type: TYPE_FP32 dims: [ 2 ]") -> str:
    return f'model_warmup {{ name: "s" inputs {{ key: "x" value {{ {more} {data} }} }} }}'


def test_without_samples_the_core_makes_up_its_own(tmp_path: Path) -> None:
    assert read("", tmp_path) == {"made_up": True, "samples": []}


def test_samples_in_order_with_their_data(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup/x.bin").write_bytes(b"12345678")
    text = f"""
        model_warmup {{ name: "a" batch_size: 4 count: 3
          inputs {{ key: "y" value {{ data_type: TYPE_STRING dims: [] random_data: true }} }}
          inputs {{ key: "x" value {{ data_type: TYPE_INT8 dims: [ 3, 0 ] zero_data: true }} }} }}
        {sample('input_data_file: "x.bin"')}"""
    found = read(text, tmp_path)
    assert not found["made_up"]
    assert found["samples"] == [
        {
            "name": "a",
            "batch_size": 4,
            "count": 3,
            "inputs": [
                {"name": "x", "datatype": "INT8", "dims": [3, 0], "data": "zero"},
                {"name": "y", "datatype": "BYTES", "dims": [], "data": "random"},
            ],
        },
        {
            "name": "s",
            "batch_size": 1,
            "count": 1,
            "inputs": [{"name": "x", "datatype": "FP32", "dims": [2], "data": "given", "bytes": b"12345678"}],
        },
    ]


@pytest.mark.parametrize("name", ["../x.bin", "/etc/hostname", "link.bin", "folder/../../x.bin"])
def test_a_file_outside_of_the_folder_is_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "warmup/folder").mkdir(parents=True)
    (tmp_path / "x.bin").write_text("secret")
    (tmp_path / "warmup/link.bin").symlink_to(tmp_path / "x.bin")
    with pytest.raises(InvalidArgument, match=r"model_warmup 's': input 'x': input_data_file '.*' leads out of"):
        read(sample(f'input_data_file: "{name}"'), tmp_path)


def test_a_warmup_folder_that_leads_out_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x.bin").write_text("secret")
    (tmp_path / "m/warmup").symlink_to(tmp_path / "other")
    with pytest.raises(InvalidArgument, match="leads out of"):
        read(sample('input_data_file: "x.bin"'), tmp_path / "m")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (sample('input_data_file: "missing.bin"'), "cannot be read: No such file"),
        (sample(""), "input 'x' has no data: give zero_data, random_data or input_data_file"),
        (sample("zero_data: true", "dims: [ 2 ]"), "input 'x' has no data_type"),
        (sample("zero_data: true", "data_type: TYPE_FP32 dims: [ -1 ]"), r"has dims \[-1\]: each must be a size"),
        ('model_warmup { name: "s" count: 1001 }', "count is 1001: it must be 0 to 1000"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as raised:
        read(text, tmp_path)
    assert "config.pbtxt of model 'm': model_warmup 's'" in raised.value.message


def test_a_file_of_no_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    with (tmp_path / "warmup/large.bin").open("wb") as large:
        large.truncate((64 << 20) + 1)
    with pytest.raises(InvalidArgument, match="over 64 MiB"):
        read(sample('input_data_file: "large.bin"'), tmp_path)
