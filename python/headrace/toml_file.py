"""A configuration file: TOML, read as a whole."""

from typing import Any

__all__ = ["read_toml"]


def read_toml(path: str) -> dict[str, Any]:
    """What stands in the file. ValueError says why it cannot be read, without its name."""
    import tomllib

    try:
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"is not TOML: {error}") from None
