"""Frames cached as uint8, so that a second epoch opens no media file.

An entry is keyed by the files' paths, sizes and modification times, the name of the clip and the
settings. A changed file or setting makes a new entry.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datamodules.samples import BadSample, Frames
from vlynx_pl.io.tensor_store import TensorStore


class FrameCache:
    """The frames of clips; see :class:`vlynx_pl.io.tensor_store.TensorStore`.

    Args:
        folder: of the store.
        settings: everything that the frames depend on, in numbers and names.
    """

    def __init__(self, folder: Path, settings: Any) -> None:
        self._store = TensorStore(folder)
        self._settings = json.dumps(settings, sort_keys=True)

    def load(
        self, kind: str, name: str, files: tuple[Path, ...], read: Callable[[], dict[str, Frames]]
    ) -> dict[str, Frames]:
        """Return the streams of a clip from its entry, or read them and make the entry.

        A damaged entry is made again, with a warning.

        Args:
            kind: of the clip, since a modality and its video may have the same name.
            name: of the clip.
            files: the files that ``read`` opens.
            read: returns the streams.

        Raises:
            BadSample: a file is missing, or ``read`` raises it.
            OSError: the entry cannot be written.
        """
        key = json.dumps([self._settings, kind, name, file_states(files)])
        if cached := self._store.load(key):
            return {stream: Frames(*one) for stream, one in cached.items()}
        streams = read()
        self._store.save(key, streams)
        return streams


def file_states(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Path, size and modification time of each file; raises BadSample if one is missing."""
    return [_state(file) for file in files]


def _state(file: Path) -> tuple[str, int, int]:
    try:
        state = file.stat()
    except OSError as error:
        raise BadSample(
            file, f"is missing ({error.strerror})", "Put it back, or leave it out", "missing"
        ) from error
    return str(file.resolve()), state.st_size, state.st_mtime_ns
