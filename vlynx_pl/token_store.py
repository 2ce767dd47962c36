"""Frozen tokens kept on disk, so that a second epoch neither decodes nor encodes.

A stream of a clip is one safetensors file, found by everything that made it: backbone, vision
adapter, how tokens are reduced, files and sampling. Nothing else finds it, so runs, workers and
ranks may share a folder, and it may be removed at any time.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlynx_pl.errors import FOREIGN, UserError
from vlynx_pl.files import atomic_file, hashed_path

_FORMAT: Final = 1  # of the entries; another number makes all of them new
PRECISION: Final = torch.bfloat16


class Kept(NamedTuple):
    """A stream of a clip."""

    tokens: Tensor  # bfloat16 (T, N, D)
    times: tuple[float, ...]  # s of its pictures


class TokenStore:
    """The tokens of clips as one model reads them.

    Args:
        folder: where entries are kept.
        roads: stream → all that its tokens depend on beside the pictures, as text.
    """

    def __init__(self, folder: Path, roads: Mapping[str, str]) -> None:
        self.folder, self.roads = folder, dict(roads)

    def holds(self, clip: str) -> bool:
        """Whether all streams of a clip are there, unread."""
        return all(self._path(stream, clip).is_file() for stream in self.roads)

    def load(self, clip: str) -> dict[str, Kept] | None:
        """All streams of a clip, or None where one is not there.

        Args:
            clip: its files and how they are sampled, as text.

        Raises:
            UserError: an entry is damaged, or belongs to something else.
        """
        try:
            return {stream: self._load(stream, clip) for stream in self.roads}
        except FileNotFoundError:
            return None

    def save(self, clip: str, streams: Mapping[str, Kept]) -> None:
        """Keep the streams of a clip; those that are there already are left as they are."""
        for stream, (tokens, times) in streams.items():
            path = self._path(stream, clip)
            if not path.is_file():
                note = {"made_by": self._made_by(stream, clip), "times": json.dumps(times)}
                with atomic_file(path) as unfinished:
                    save_file({"tokens": tokens.cpu().contiguous()}, unfinished, note)

    def _load(self, stream: str, clip: str) -> Kept:
        path = self._path(stream, clip)
        try:
            with safe_open(path, "pt") as entry:
                note, tokens = entry.metadata(), entry.get_tensor("tokens")
            made_by, times = note["made_by"], tuple(map(float, json.loads(note["times"])))
        except FileNotFoundError:
            raise
        except (*FOREIGN, SafetensorError) as error:
            raise UserError(
                f"{path} is no entry of a token store ({error}); remove it, and it is made again"
            ) from error
        if made_by != (wanted := self._made_by(stream, clip)):
            raise UserError(
                f"{path} holds tokens of {made_by}, this run needs those of {wanted}; remove it, "
                "and it is made again"
            )
        return Kept(tokens, times)

    def _made_by(self, stream: str, clip: str) -> str:
        return json.dumps([_FORMAT, self.roads[stream], stream, clip])

    def _path(self, stream: str, clip: str) -> Path:
        return hashed_path(self.folder, self._made_by(stream, clip))
