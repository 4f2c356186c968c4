"""Models that came with a load request: their files, in a private temporary folder, bounded and removed.

Blocking: files are written and removed. Used in a thread, one call at a time for one model.
"""

import dataclasses
import logging
import re
import shutil
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
                self._folder = Path(tempfile.mkdtemp(prefix="headrace-models-"))  # readable by us alone
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
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _parts(model: str, path: str) -> list[str]:
    parts = path.split("/")
    if not 1 <= len(parts) <= _DEEPEST or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidArgument(
            f"'file:{path}' of model '{model}' is no path below its folder: write file:<version>/<name>, with letters, "
            f"digits and _ . + - in at most {_DEEPEST} parts"
        )
    return parts
