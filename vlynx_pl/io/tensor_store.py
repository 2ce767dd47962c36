"""Frames and tokens kept on disk, so that later epochs neither decode nor encode.

An entry is one safetensors file, named by a hash of everything that determines its content. So
runs, workers and process ranks may share a folder, and it may be removed at any time.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias
from warnings import warn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlynx_pl.io.errors import PARSE_ERRORS
from vlynx_pl.io.files import atomic_file

Kept: TypeAlias = dict[str, tuple[Tensor, tuple[float, ...]]]
"""Stream → (T, …) frames or tokens, and their timestamps in s, which may be empty."""
PRECISION: Final = torch.bfloat16  # of kept tokens
_FORMAT: Final = 3  # a new number invalidates all entries


class TensorStore:
    """Streams of clips, by a text that describes how they were made.

    Args:
        folder: of the entries.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def holds(self, made_of: str) -> bool:
        """Whether an entry exists."""
        return self._path(made_of).is_file()

    def load(self, made_of: str) -> Kept:
        """Load the streams of an entry; empty if it is missing or, with a warning, damaged."""
        path = self._path(made_of)
        try:
            with safe_open(path, "pt") as entry:
                note = entry.metadata()["note"]
                streams = {
                    name: (entry.get_tensor(name), tuple(times))
                    for name, (*_, times) in json.loads(note)[1].items()
                }
            if note != _note(made_of, streams):
                raise ValueError("its content does not match its note")
        except FileNotFoundError:
            return {}
        except (*PARSE_ERRORS, AttributeError, SafetensorError) as error:
            warn(f"{path} cannot be used ({error}) and is made again", stacklevel=2)
            return {}
        return streams

    def save(self, made_of: str, streams: Mapping[str, tuple[Tensor, Sequence[float]]]) -> None:
        """Save the streams of an entry; raise OSError if it cannot be written."""
        tensors = {name: tensor.cpu().contiguous() for name, (tensor, _) in streams.items()}
        with atomic_file(self._path(made_of)) as unfinished:
            save_file(tensors, unfinished, {"note": _note(made_of, streams)})

    def _path(self, made_of: str) -> Path:
        key = hashlib.sha256(f"{_FORMAT} {made_of}".encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"


class TokenStore:
    """The tokens of clips for one model; each stream is a separate entry.

    Args:
        folder: of the entries.
        keys: stream → everything beside the frames that its tokens depend on, as text.
    """

    def __init__(self, folder: Path, keys: Mapping[str, str]) -> None:
        self._store, self.keys = TensorStore(folder), dict(keys)

    def holds(self, clip: str) -> bool:
        """Whether all streams of a clip exist."""
        return all(self._store.holds(self._made_of(stream, clip)) for stream in self.keys)

    def load(self, clip: str) -> Kept:
        """Load all streams of a clip; empty if one is missing or damaged.

        Args:
            clip: its files and how they are sampled, as text.
        """
        entries = [self._store.load(self._made_of(stream, clip)) for stream in self.keys]
        return {name: entry[name] for entry in entries for name in entry} if all(entries) else {}

    def save(self, clip: str, streams: Mapping[str, tuple[Tensor, Sequence[float]]]) -> None:
        """Save the streams of a clip: tokens (T, N, D) and timestamps in s.

        What is named like a stream and one more word is saved with it.
        """
        for key in self.keys.keys() & streams.keys():
            entry = {name: each for name, each in streams.items() if name.split(" ")[0] == key}
            self._store.save(self._made_of(key, clip), entry)

    def _made_of(self, stream: str, clip: str) -> str:
        return json.dumps([self.keys[stream], stream, clip])


def _note(made_of: str, streams: Mapping[str, tuple[Tensor, Sequence[float]]]) -> str:
    """The description of an entry, by which damage is found."""
    said = {name: (str(x.dtype), list(x.shape), times) for name, (x, times) in streams.items()}
    return json.dumps([made_of, said])
