"""Which tokens of its streams a run keeps; how they are chosen is in token_reduction.py."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor

from vlynx_pl.adapters import tensors_hash
from vlynx_pl.io.errors import UserError
from vlynx_pl.token_reduction import Keep, at_random, count_kept, pool, salient, spread

Reducer: TypeAlias = Literal["pool", "salient", "random"]
USUAL: Final = "usual.safetensors"
"""Name of the file of usual tokens, in a run's folder and beside its adapters."""


def places_of(stream: str) -> str:
    """Return the name under which the places of a reduced stream's tokens are kept."""
    return f"{stream} kept"


class Group(NamedTuple):
    """Streams that are reduced together."""

    names: tuple[str, ...]
    reducer: Reducer | Literal["spread"]
    keep: Keep


@dataclass(frozen=True)
class TokenReduction:
    """Which tokens of a run's streams are kept, and how they are chosen.

    Args:
        groups: the streams that are reduced.
        elastic: shares, of which training draws one for each clip and epoch.
        compact: count kept tokens like text, instead of keeping their positions.
    """

    groups: tuple[Group, ...] = ()
    elastic: tuple[float, ...] = ()
    compact: bool = False
    usual: dict[str, Tensor] = field(default_factory=dict)
    """Stream that is reduced by salience → (N, W) the mean token of each place."""

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        keep: Keep | Mapping[str, Keep] | None,
        reduce: Literal["spread"] | Mapping[str, Reducer] | None,
        elastic: Sequence[float],
        compact: bool,
    ) -> Self:
        """Check settings of a run that reads these streams.

        Raises:
            UserError: they do not fit together.
        """
        said = f"model.streams.keep={keep} with reduce={reduce} and elastic={list(elastic)}"
        each: Mapping[str, Keep] = keep if isinstance(keep, Mapping) else {}
        how: Mapping[str, Reducer] = reduce if isinstance(reduce, Mapping) else {}
        if keep in (None, {}):
            if reduce or elastic or compact:
                raise UserError(
                    f"{said} keeps all tokens; say what to keep, or leave the other settings and "
                    "positions out"
                )
            return cls()
        assert keep is not None
        if isinstance(keep, Mapping) == (reduce == "spread"):
            raise UserError(
                f"{said}: spread takes one number for all streams together, such as 0.25, and the "
                "other reducers one for each stream, such as {3d: 0.25}; correct keep or reduce"
            )
        if unknown := sorted({*each, *how} - {*names} or how.keys() - each.keys()):
            raise UserError(
                f"{said}: {unknown[0]!r} is not a stream of this run that keep reduces; the "
                f"streams are {', '.join(names)}"
            )
        if isinstance(keep, Mapping):
            usual: dict[str, Reducer] = {"video": "pool"}
            reducers = {name: how.get(name, usual.get(name, "salient")) for name in each}
            groups = [Group((name,), reducers[name], size) for name, size in each.items()]
        else:
            groups = [Group(tuple(names), "spread", keep)]
        for size in (*(group.keep for group in groups), *elastic):
            share = isinstance(size, float)
            if isinstance(size, bool) or not size > 0 or (share and size > 1):  # NaN is not, either
                raise UserError(
                    f"{said}: {size} is neither a share above 0.0 and up to 1.0, nor a whole "
                    "number of tokens per frame; correct it"
                )
        return cls(tuple(groups), tuple(map(float, elastic)), compact)

    def __bool__(self) -> bool:
        return bool(self.groups)

    def check(self, per_frame: int) -> None:
        """Raise UserError for a size that frames of N tokens cannot have."""
        squares = [side**2 for side in range(1, isqrt(per_frame) + 1)]
        for names, reducer, keep in self.groups:
            for size in (keep, *self.elastic):
                cells = size if isinstance(size, int) else size * per_frame
                if cells > per_frame or (reducer == "pool" and cells not in squares):
                    raise UserError(
                        f"model.streams.keep={size} keeps {cells:g} of the {per_frame} tokens of a "
                        f"frame of {' and '.join(names)}; give at most all, and where they are "
                        f"pooled as many as a square grid has: {', '.join(map(str, squares))}"
                    )

    def drawn(self, *place: object) -> float:
        """Draw the size of a clip by a hash of its place in training."""
        return random.Random(_hash(repr(place))).choice(self.elastic)

    def reduced(
        self, whole: Mapping[str, Tensor], key: str, size: Keep | None = None
    ) -> dict[str, Tensor]:
        """Reduce the tokens of a clip.

        Args:
            whole: stream → (T, N, W).
            key: name of the clip.
            size: instead of each group's own.

        Returns:
            The same; but of a reduced stream (n, W) tokens, and their places (T, N) bool under the
            name :func:`places_of`.
        """
        found = dict(whole)
        for names, reducer, keep in self.groups:
            streams = [whole[name] for name in names]
            frames, per_frame = sum(map(len, streams)), streams[0].shape[1]
            count = count_kept(size or keep, frames, per_frame)
            match reducer:
                case "pool":
                    pooled, kept = pool(streams[0], isqrt(count // frames))
                    found |= {names[0]: pooled, places_of(names[0]): kept}
                    continue
                case "spread":
                    masks = spread(streams, count)
                case "salient":
                    masks = [salient(streams[0], self.usual_of(names[0]), count)]
                case "random":
                    masks = [at_random(streams[0], count, _hash(f"{key} {names[0]}"))]
            for name, stream, kept in zip(names, streams, masks, strict=True):
                found |= {name: stream[kept], places_of(name): kept}
        return found

    def outline(
        self, grids: Mapping[str, tuple[int, int]], size: Keep | None = None
    ) -> dict[str, Tensor]:
        """Return places (T, N) bool of each reduced stream; only their numbers are right."""
        places: dict[str, Tensor] = {}
        for names, _, keep in self.groups:
            frames, per_frame = sum(grids[name][0] for name in names), grids[names[0]][1]
            kept = torch.arange(frames * per_frame) < count_kept(size or keep, frames, per_frame)
            lengths = [grids[name][0] for name in names]
            parts = torch.split(kept.view(frames, per_frame), lengths)
            places |= dict(zip(names, parts, strict=True))
        return places

    def usual_of(self, stream: str) -> Tensor:
        """Return the mean token (N, W) of each place; raise UserError if there is none."""
        if stream not in self.usual:
            raise UserError(
                f"{stream!r} is reduced by salience, which needs its usual tokens: they are "
                "measured by callbacks.UsualTokens, listed before callbacks.KeepTokens, and are "
                f"saved as {USUAL} beside the LLM's adapter; tune with this reduction, or copy all "
                "files of its run's adapters"
            )
        return self.usual[stream]

    def by_salience(self) -> list[str]:
        """Return the streams that are reduced by salience."""
        return [group.names[0] for group in self.groups if group.reducer == "salient"]

    def unfitted(self) -> list[str]:
        """Return those whose usual tokens are missing."""
        return [name for name in self.by_salience() if name not in self.usual]

    def settings(self, adapters: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
        """Return how each reduced stream is reduced, as plain data.

        Args:
            adapters: stream → hash of its vision adapter.
        """
        found: dict[str, dict[str, Any]] = {}
        for names, reducer, keep in self.groups:
            how: dict[str, Any] = {"reduce": reducer, "compact": self.compact}
            if self.elastic:  # answers may then be of any size
                how["elastic"] = [*self.elastic]
            else:
                how["keep"] = f"{keep} per frame" if isinstance(keep, int) else keep
            if reducer == "salient":
                how["usual"] = tensors_hash({"usual": self.usual_of(names[0])})
            if reducer == "spread":
                how["together"] = {name: adapters.get(name) for name in names}
            found |= {name: dict(how) for name in names}
        return found


def reducing_settings(reads: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of ``model.streams`` that :meth:`TokenReduction.settings` tells of."""
    reduced = {name: how for name, how in reads.items() if "reduce" in how}
    if not reduced:
        return {}
    first = next(iter(reduced.values()))
    found: dict[str, Any] = {
        "keep": {name: _size(how) for name, how in reduced.items()},
        "reduce": {name: how["reduce"] for name, how in reduced.items()},
    }
    if first["reduce"] == "spread":
        found = {"keep": _size(first), "reduce": "spread"}
    if "elastic" in first:
        found["elastic"] = first["elastic"]
    if first["compact"]:
        found["positions"] = "compact"
    return found


def _size(how: Mapping[str, Any]) -> Keep:
    keep: str | float = max(how["elastic"]) if "elastic" in how else how["keep"]
    return int(keep.partition(" ")[0]) if isinstance(keep, str) else keep


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
