"""What the server accepts at most."""

from dataclasses import dataclass
from typing import Final

MIB: Final = 2**20


@dataclass(frozen=True)
class Limits:
    """What the server accepts at most.

    Args:
        upload: bytes of a file.
        seconds: s of a video or sound.
        memory: bytes of all sessions.
        queue: requests under way, those that wait included.
        timeout: s that a request may take, its upload and its waiting included.
        reading: s that reading the files of a clip may take.
        readers: clips that are read at the same time.
    """

    upload: int = 256 * MIB
    seconds: float = 600
    memory: int = 4096 * MIB
    queue: int = 64
    timeout: float = 120
    reading: float = 30
    readers: int = 2

    @property
    def stored(self) -> int:
        """Bytes of all files on the disk."""
        return 8 * self.upload

    @property
    def body(self) -> int:
        """Bytes of a request that is not an upload, its data URLs included."""
        return min(64 * MIB, 4 * self.upload // 3 + MIB)
