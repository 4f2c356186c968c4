"""Files that load requests bring: where they may lie, how many, and that they go again."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from headrace.errors import InvalidArgument, ResourceExhausted
from headrace.uploads import Uploads


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_files_lie_as_in_a_repository_and_go_again(temporary: Path) -> None:
    uploads = Uploads(100)
    one = uploads.place("m", {"1/model.onnx": b"abc", "1/parts/w.bin": b"", "labels.txt": b"x"})
    assert (one.root / "m/1/model.onnx").read_bytes() == b"abc"
    assert (one.root / "m/labels.txt").read_bytes() == b"x"
    assert (one.root / "m/1/parts/w.bin").exists()
    assert one.root.parent.stat().st_mode & 0o777 == 0o700
    two = uploads.place("m", {"1/model.onnx": b"de"})
    assert one.root != two.root
    assert uploads.bytes_in_use == one.size + two.size == 6
    uploads.remove(one)
    assert not one.root.exists()
    assert uploads.bytes_in_use == 2
    uploads.close()
    assert list(temporary.iterdir()) == []
    assert uploads.bytes_in_use == 0


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/x", "a/../b", "a//b", "a/", ".git/x", "1/.x", "a\\b", "a b", "ü", "a\0", "/".join("abcdefghi")],
)
def test_paths_that_are_none(temporary: Path, path: str) -> None:
    uploads = Uploads(100)
    with pytest.raises(InvalidArgument, match="is no path below its folder"):
        uploads.place("m", {"1/model.onnx": b"abc", path: b""})
    assert uploads.bytes_in_use == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("files", [{"1": b"", "1/x": b""}, {"1/x": b"", "1": b""}])
def test_a_file_and_a_folder_of_one_name_leave_nothing(temporary: Path, files: dict[str, bytes]) -> None:
    uploads = Uploads(100)
    with pytest.raises(InvalidArgument, match="a file and a folder of one name"):
        uploads.place("m", files)
    assert uploads.bytes_in_use == 0
    assert [left.name for left in temporary.glob("*/*")] == ["lock"]


def test_all_together_are_bounded() -> None:
    uploads = Uploads(10)
    first = uploads.place("m", {"1/x": b"123456"})
    with pytest.raises(ResourceExhausted, match=r"have 5 bytes and 6 are in use.*limit of 10.*--max-upload-bytes"):
        uploads.place("n", {"1/x": b"12345"})
    uploads.remove(first)
    uploads.place("n", {"1/x": b"1234567890"})
    with pytest.raises(InvalidArgument, match="at most 1024"):
        uploads.place("n", {f"1/{number}": b"" for number in range(1025)})


def test_a_sweep_takes_what_a_killed_server_has_left_and_nothing_of_a_live_one(temporary: Path) -> None:
    server = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from headrace.uploads import Uploads
uploads = Uploads(100)
print(uploads.place("m", {"1/x": b"abc"}).root, flush=True)
sys.stdin.read()
"""
    mine = Uploads(100).place("m", {"1/x": b"def"}).root  # its server lives as long as the object's descriptor
    (temporary / "headrace-models-unlocked").mkdir()
    (temporary / "headrace-models-link").symlink_to(mine.parent)
    with subprocess.Popen(
        [sys.executable, "-c", server, str(temporary)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().decode().strip())
        assert Uploads.sweep() == 0
        assert (left / "m/1/x").read_bytes() == b"abc"
        other.send_signal(signal.SIGKILL)
    assert Uploads.sweep() == 1
    assert not left.parent.exists()
    assert (mine / "m/1/x").read_bytes() == b"def"
    assert (temporary / "headrace-models-unlocked").exists(), "whose it is nobody can tell"
    assert Uploads.sweep() == 0
