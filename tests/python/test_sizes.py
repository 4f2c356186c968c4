"""Budgets of bytes, by device."""

import pytest

from headrace.sizes import GIB, MIB, memory_budgets


@pytest.mark.parametrize(("word", "size"), [("2GiB", 2 * GIB), ("cpu=3m", 3 * MIB), ("1048576", MIB)])
def test_a_budget_is_bytes_of_a_device(word: str, size: int) -> None:
    assert memory_budgets([word]) == {"cpu": size}


@pytest.mark.parametrize("word", ["", "cpu=", "much", "1KiB", "-1GiB", "1.5GiB", "9999999GiB", "gpu=1GiB"])
def test_what_is_none_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"names the device|give 1 MiB to 1048576 GiB"):
        memory_budgets([word])
