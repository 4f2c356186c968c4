"""Bytes as people write them, and budgets of them by device."""

import re
from collections.abc import Iterable

__all__ = ["GIB", "KIB", "MIB", "UNITS", "memory_budgets"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
UNITS = {"": 1, "K": KIB, "KIB": KIB, "M": MIB, "MIB": MIB, "G": GIB, "GIB": GIB}
_DEVICES = ("cpu",)


def memory_budgets(words: Iterable[str]) -> dict[str, int]:
    """Device -> bytes, of words as "2GiB" and "cpu=2GiB". ValueError says what is wrong with one."""
    budgets: dict[str, int] = {}
    for word in words:
        device, _, size = word.rpartition("=")
        device = device or "cpu"
        if device not in _DEVICES:
            raise ValueError(f"names the device {device!r}; there is: {', '.join(_DEVICES)}")
        if device in budgets:
            raise ValueError(f"has two budgets of the device {device}: give one")
        match = re.fullmatch(r"(\d{1,15})([A-Za-z]*)", size)
        factor = UNITS.get(match.group(2).upper()) if match else None
        if match is None or factor is None or not MIB <= int(match.group(1)) * factor <= 1 << 50:
            raise ValueError(f"has {size!r}, which it cannot be: give 1 MiB to {1 << 20} GiB")
        budgets[device] = int(match.group(1)) * factor
    if not budgets:
        raise ValueError("is empty: give BYTES, or DEVICE=BYTES, or leave it out")
    return budgets
