"""Hold-out of media when no annotation says which are for training."""

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def hold_out(items: Sequence[_Item], share: float = 0.2) -> tuple[list[_Item], list[_Item]]:
    """Return the items but the last, and the last: a ``share``, rounded down but at least one.

    They are not sampled at random, since neighbours by name are often parts of one recording.
    """
    held_out = max(1, int(len(items) * share))
    return list(items[:-held_out]), list(items[-held_out:])
