"""Pictures kept as uint8 beside the data, so that a second epoch opens no media file.

An entry is found by what made it: the files' paths, sizes and times of change, the name of the clip
and the settings. A changed file or setting makes a new entry; old ones may be removed at any time.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from datamodules.samples import BadSample, Frames
from vlynx_pl.files import atomic_file, hashed_path

_FORMAT = 1  # of the entries; another number makes all of them new
# What reading an entry raises that is none, beside FileNotFoundError.
_DAMAGE = (SafetensorError, OSError, LookupError, TypeError, ValueError, RecursionError)


class FrameCache:
    """Entries of one safetensors file each; many workers and ranks may share the folder.

    Args:
        folder: where entries are kept.
        settings: what makes the pictures and how, in plain numbers and names.
    """

    def __init__(self, folder: Path, settings: Sequence[Any]) -> None:
        self.folder = folder
        self.settings = json.dumps(settings, sort_keys=True)

    def load(
        self, kind: str, name: str, files: tuple[Path, ...], read: Callable[[], dict[str, Frames]]
    ) -> dict[str, Frames]:
        """The streams of a clip, from its entry or else from ``read``, which makes the entry.

        A damaged entry is made again, with a warning.

        Args:
            kind: of the clip, since a modality and its video may have one name.
            name: of the clip.
            files: what ``read`` opens.
            read: gives the streams.

        Raises:
            BadSample: a file is missing, or ``read`` raises it.
            OSError: the entry cannot be written.
        """
        path = self._path(kind, name, files)
        try:
            return _load(path)
        except FileNotFoundError:
            pass
        except _DAMAGE as error:
            warn(f"{path} is no entry of a frame cache ({error}) and is made again", stacklevel=2)
        streams = read()
        tensors = {f"{name}.pictures": s.pictures.contiguous() for name, s in streams.items()}
        times = {name: stream.times for name, stream in streams.items()}
        with atomic_file(path) as unfinished:
            save_file(tensors, unfinished, {"times": json.dumps(times)})
        return streams

    def _path(self, kind: str, name: str, files: tuple[Path, ...]) -> Path:
        made_of = json.dumps([_FORMAT, self.settings, kind, name, states(files)])
        return hashed_path(self.folder, made_of)


def states(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of each file; raises BadSample where one is missing."""
    return [_state(file) for file in files]


def _state(file: Path) -> tuple[str, int, int]:
    try:
        state = file.stat()
    except OSError as error:
        raise BadSample(
            file, f"is not there ({error.strerror})", "Put it back, or leave it out", "missing"
        ) from error
    return str(file.resolve()), state.st_size, state.st_mtime_ns


def _load(path: Path) -> dict[str, Frames]:
    with safe_open(path, "pt") as entry:
        times = json.loads(entry.metadata()["times"])
        if not isinstance(times, dict) or not times:
            raise ValueError("it names no stream")
        return {
            name: _checked(name, entry.get_tensor(f"{name}.pictures"), tuple(moments))
            for name, moments in times.items()
        }


def _checked(name: str, pictures: Tensor, times: tuple[float, ...]) -> Frames:
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"{name} has {pictures.dtype} of shape {tuple(pictures.shape)}")
    if len(times) not in {0, len(pictures)} or not all(math.isfinite(time) for time in times):
        raise ValueError(f"{name} has other times than its {len(pictures)} pictures")
    return Frames(pictures, times)
