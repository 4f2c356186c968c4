"""Named resources of the rate limiter, as people write how much there is of them."""

import re
from collections.abc import Iterable
from typing import TypedDict

__all__ = ["MOST", "WHOLE_SERVER", "Resource", "resource_limits"]

MOST = 1_000_000  # of one resource
WHOLE_SERVER = -1


class Resource(TypedDict):
    """So much of a named resource: what a batch needs of it, or what there is."""

    name: str
    device: int  # of a need: 0 is the one that the model runs on; of a limit: its number; -1 is the whole server
    count: int


def resource_limits(words: Iterable[str]) -> list[Resource]:
    """What there is, of words as "NAME:COUNT" (on each device) and "NAME:COUNT:DEVICE". Names are of any case.

    ValueError says what is wrong with one.
    """
    limits: list[Resource] = []
    for word in words:
        match = re.fullmatch(r"([^:\s]{1,256}):(\d{1,7})(?::(\d{1,3}))?", word)
        if match is None or not 1 <= int(match[2]) <= MOST:
            raise ValueError(f"has {word!r}: give NAME:COUNT or NAME:COUNT:DEVICE, with a count of 1 to {MOST}")
        device = WHOLE_SERVER if match[3] is None else int(match[3])
        limit: Resource = {"name": match[1].lower(), "device": device, "count": int(match[2])}
        if any((each["name"], each["device"]) == (limit["name"], device) for each in limits):
            raise ValueError(f"has two counts of {match[1]!r} for the same device: give one")
        limits.append(limit)
    return limits
