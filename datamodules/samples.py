"""What travels from files to the model, and the one error for a file that cannot."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from torch import Tensor


class BadSample(ValueError):  # noqa: N818
    """A file or folder that cannot be used as it is.

    Args:
        path: the file or folder.
        reason: what is wrong with it.
        remedy: what to do about it.
    """

    # The last two have defaults because a DataLoader rebuilds a worker's error from its text alone.
    def __init__(self, path: Path | str, reason: str = "", remedy: str = "") -> None:
        super().__init__(path, reason, remedy)
        self.path, self.reason, self.remedy = path, reason, remedy

    def __str__(self) -> str:
        """The path, the reason and the remedy."""
        return f"{self.path}: {self.reason}. {self.remedy}" if self.reason else str(self.path)


@dataclass(frozen=True)
class Clip:
    """Frames that are read together, when they are asked for.

    Args:
        name: the scene and its frames, such as ``scene0000_00/0,20,40``.
        read: gives uint8 (T, 3, h, w) in the size of the files, or raises BadSample.
    """

    name: str
    read: Callable[[], Tensor]


class FrameBatch(TypedDict):
    """A batch for alignment or guidance: pictures without text."""

    frames: Tensor  # uint8 (B, T, 3, H, W)
    clips: list[str]  # B names of scene and frames
