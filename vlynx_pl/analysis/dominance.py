"""How much the guidance depends on its videos (paper, eq. 11-13 and Table B2).

The paper compares the mean keys and values of six data sets with their mean, and calls the ratio of
magnitude to variance the dominance. Means over thousands of frames hardly differ, whatever the
frames do. So the variance between videos and between frames belongs beside it, and the variance
that means over so few frames have by chance.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vlynx_pl.guidance import InterfaceGuidance
from vlynx_pl.io.errors import UserError


@dataclass(frozen=True)
class LayerDominance:
    """Figures of each vision layer, for keys or for values: (L,) float64 each.

    All are means over heads, positions and channels. NaN is unknown: ``sources`` of a single
    guidance, and the last three if a file was made before spreads were kept.
    """

    magnitude: Tensor  # mean |K|, which Table B2 seems to print
    root_mean_square: Tensor  # of K, another reading of its magnitude
    sources: Tensor  # variance between the means of the guidances (eq. 12)
    videos: Tensor  # variance between the means of a guidance's videos
    frames: Tensor  # variance between a guidance's frames
    chance: Tensor  # of ``frames``, what is left in a mean over a guidance's frames

    @property
    def dominance(self) -> Tensor:
        """Magnitude / variance between sources (eq. 13), which has the unit of 1/K."""
        return self.magnitude / self.sources

    @property
    def ratio(self) -> Tensor:
        """Mean K² / variance between sources, which has no unit."""
        return self.root_mean_square.square() / self.sources

    @property
    def frame_ratio(self) -> Tensor:
        """Mean K² / variance between frames: how much a single frame resembles the mean."""
        return self.root_mean_square.square() / self.frames


def dominance(guidances: Mapping[str, InterfaceGuidance]) -> dict[str, LayerDominance]:
    """Compare guidances of one backbone.

    Args:
        guidances: name → guidance; the names are for messages.

    Returns:
        ``keys`` and ``values``.

    Raises:
        UserError: there is none, or two are of different backbones or frame sizes.
    """
    if not guidances:
        raise UserError("no guidance was given; give one or more guidance.safetensors")
    _refuse_others(guidances)
    each = list(guidances.values())
    counts = torch.tensor([one.num_frames for one in each], dtype=torch.float64)
    shares = counts / counts.sum()
    unknown = torch.full((2, 2, len(each[0].keys)), torch.nan, dtype=torch.float64)
    spreads = [unknown if one.frame_spread is None else one.frame_spread for one in each]
    frames, videos = torch.einsum("b,bpsl->spl", shares, torch.stack(spreads))  # each (2, L)
    found = {}
    for part, name in enumerate(("keys", "values")):
        mean = sum(
            share * getattr(one, name).double() for share, one in zip(shares, each, strict=True)
        )
        assert isinstance(mean, Tensor)
        squares = torch.stack([_over_layer((getattr(one, name) - mean).square()) for one in each])
        found[name] = LayerDominance(
            magnitude=_over_layer(mean.abs()),
            root_mean_square=_over_layer(mean.square()).sqrt(),
            sources=squares.mean(0) if len(each) > 1 else torch.full_like(squares[0], torch.nan),
            videos=videos[part],
            frames=frames[part],
            chance=frames[part] / counts.mean(),
        )
    return found


def _over_layer(elements: Tensor) -> Tensor:
    """Mean over heads, positions and channels: (L, h, S, d) → (L,)."""
    return elements.flatten(1).mean(1)


def _refuse_others(guidances: Mapping[str, InterfaceGuidance]) -> None:
    (first, one), *others = guidances.items()
    for name, other in others:
        for what in ("fingerprint", "frame_size"):
            here, there = getattr(one.source, what), getattr(other.source, what)
            if here != there:
                raise UserError(
                    f"{first} and {name} cannot be compared: the {what} of their backbones is "
                    f"{here} ({one.source.backbone}) and {there} ({other.source.backbone}); give "
                    "guidance files of one backbone"
                )
        if one.keys.shape != other.keys.shape:
            raise UserError(
                f"{first} and {name} cannot be compared: their keys are {tuple(one.keys.shape)} "
                f"and {tuple(other.keys.shape)}; give guidance files of one backbone"
            )
