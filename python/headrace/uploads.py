"""Models that came with a load request: their files, in a private temporary folder, bounded and removed.

The folder holds a lock file, locked for as long as its server lives: the kernel lets go of it however the server ends.
So the next server can tell what one that was killed has left, and removes it.

Blocking: files are written and removed. Used in a thread, one call at a time for one model.
"""

import contextlib
import dataclasses
import fcntl
import logging
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from headrace.errors import Internal, InvalidArgument, ResourceExhausted

__all__ = ["Upload", "Uploads"]

log = logging.getLogger("headrace.uploads")

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]{0,254}")  # of a path: never "." or "..", never hidden
_DEEPEST = 8
_MOST_FILES = 1024
_PREFIX = "headrace-models-"
_LOCK = "lock"  # beside the uploads, whose names are numbers


@dataclasses.dataclass(frozen=True)
class Upload:
    """The files of one load request. `root/<model>/` is laid out as in a repository."""

    root: Path
    size: int


class Uploads:
    """All uploads of a server: together at most `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._bytes = 0
        self._folder: Path | None = None
        self._serial = 0
        self._held = -1  # the lock file's descriptor

    @staticmethod
    def sweep() -> int:
        """Removes the folders of servers of this user that have ended without doing so; how many there were. One whose
        server lives is locked, and one without a lock file is not ours to judge."""
        swept = 0
        for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):  # somebody else's, or gone meanwhile
                swept += _sweep(folder)
        return swept

    @property
    def bytes_in_use(self) -> int:
        """Of all uploads that are there."""
        return self._bytes

    def place(self, model: str, files: Mapping[str, bytes]) -> Upload:
        """Writes `files` (path below the model's folder -> content). InvalidArgument for a path that is none,
        ResourceExhausted when the bound is reached."""
        if len(files) > _MOST_FILES:
            raise InvalidArgument(f"model '{model}' comes with {len(files)} files: at most {_MOST_FILES} are taken")
        parts = {path: _parts(model, path) for path in files}
        size = sum(len(content) for content in files.values())
        root = self._reserve(model, size)
        upload = Upload(root, size)
        try:
            for path, content in files.items():
                file = root.joinpath(model, *parts[path])
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("xb") as stream:
                    stream.write(content)
        except (FileExistsError, NotADirectoryError):
            self.remove(upload)
            raise InvalidArgument(f"model '{model}' comes with a file and a folder of one name") from None
        except OSError as error:
            self.remove(upload)
            log.error("the files of model '%s' cannot be written to %s: %s", model, root, error.strerror)
            raise Internal(f"the files of model '{model}' cannot be written: {error.strerror}") from None
        return upload

    def _reserve(self, model: str, size: int) -> Path:
        with self._lock:
            if self._bytes + size > self._max_bytes:
                raise ResourceExhausted(
                    f"the files of model '{model}' have {size} bytes and {self._bytes} are in use by others, over the "
                    f"limit of {self._max_bytes} for all together (--max-upload-bytes): unload one first"
                )
            if self._folder is None:
                self._folder, self._held = _locked_folder()
            self._bytes += size
            self._serial += 1
            return self._folder / str(self._serial)

    def remove(self, upload: Upload) -> None:
        """Removes the files. A model that is loaded from them no longer needs them."""
        shutil.rmtree(upload.root, ignore_errors=True)
        with self._lock:
            self._bytes -= upload.size

    def close(self) -> None:
        """Removes everything."""
        with self._lock:
            folder, self._folder, self._bytes = self._folder, None, 0
            held, self._held = self._held, -1
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)


def _locked_folder() -> tuple[Path, int]:
    """A new folder, readable by us alone, and the descriptor that locks it."""
    # It gets the name that sweeps look for when it is locked, so that none comes in between.
    made = Path(tempfile.mkdtemp(prefix="headrace-new-"))
    held = os.open(made / _LOCK, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        return made.rename(made.with_name(_PREFIX + made.name.removeprefix("headrace-new-"))), held
    except OSError:
        os.close(held)
        raise


def _sweep(folder: Path) -> bool:
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        return False
    held = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(held)
    return not folder.exists()


def _parts(model: str, path: str) -> list[str]:
    parts = path.split("/")
    if not 1 <= len(parts) <= _DEEPEST or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidArgument(
            f"'file:{path}' of model '{model}' is no path below its folder: write file:<version>/<name>, with letters, "
            f"digits and _ . + - in at most {_DEEPEST} parts"
        )
    return parts
