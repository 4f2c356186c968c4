"""The patterns of --grpc-header-forward-pattern and --http-header-forward-pattern: which header names they mean."""

import re
from collections.abc import Callable

__all__ = ["header_matcher"]

_EXACT = "(?-i)"  # Triton's way to ask for it, which Python's expressions do not know


def header_matcher(pattern: str) -> Callable[[str], object | None] | None:
    """A function of a header's name, which is in lower case as it is everywhere here: not None when the whole name
    matches. None for the empty pattern, which no name matches.

    Upper and lower case are the same, unless the pattern begins with (?-i). ValueError says what is wrong with it.
    """
    if not pattern:
        return None
    exact = pattern.startswith(_EXACT)
    try:
        compiled = re.compile(pattern.removeprefix(_EXACT), re.NOFLAG if exact else re.IGNORECASE)
    except re.error as error:
        raise ValueError(str(error)) from None
    except (OverflowError, RecursionError) as error:  # a repetition, or a nesting, beyond what `re` can hold
        raise ValueError(str(error)) from None
    return compiled.fullmatch
