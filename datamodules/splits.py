"""Holding media out where no annotation says which are for training."""

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def hold_out(items: Sequence[_Item]) -> tuple[list[_Item], list[_Item]]:
    """The first 80 % of the items and the last 20 %, at least one."""
    held_out = max(1, len(items) // 5)
    return list(items[:-held_out]), list(items[-held_out:])
