"""Names of classes, from the files that a model's config.pbtxt calls `label_filename`: one a line, by index."""

from pathlib import Path

from headrace.errors import InvalidArgument
from headrace.model_config import ModelSettings

__all__ = ["read"]

_MAX_BYTES = 16 << 20


def read(settings: ModelSettings, folder: Path) -> dict[str, list[str]]:
    """Output name -> labels. Files lie in the model's `folder`, links included. InvalidArgument says what is wrong
    with one."""
    labels: dict[str, list[str]] = {}
    real_folder = folder.resolve()
    for output in settings.message.output:
        if not output.label_filename:
            continue
        where = f"label_filename of output '{output.name}' of model '{settings.name}'"
        path = folder / output.label_filename
        if not path.resolve().is_relative_to(real_folder):
            raise InvalidArgument(f"{where} leads out of the model's folder {folder}: put a copy in there")
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise InvalidArgument(f"{where}: {path} is over 16 MiB, which no list of labels is")
            text = path.read_text("utf-8")
        except OSError as error:
            raise InvalidArgument(f"{where}: {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InvalidArgument(f"{where}: {path} is not UTF-8 text") from None
        labels[output.name] = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    return labels
