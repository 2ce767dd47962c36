"""Interface guidance: statistics of plain video inside the frozen model (paper eq. 2-3).

These are mean keys and values of every vision layer over all frames, and mean and variance of the
projected tokens. Sums are float64; results are float32, in one safetensors file that names the
backbone and the videos.
"""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchmetrics import Metric

from vlynx_pl.adapters import tensors_hash
from vlynx_pl.attention import AttentionCall, listen
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.io.files import atomic_file

_TENSORS = ("keys", "values", "token_mean", "token_var")
_FORMAT = "vlynx-guidance-1"


class GuidanceError(UserError):
    """A guidance file that is damaged, or was made with another backbone or frame size."""


@dataclass(frozen=True)
class GuidanceSource:
    """Backbone, videos and settings that a guidance was made with."""

    backbone: str
    fingerprint: str
    frame_size: tuple[int, int]
    include_newline: bool
    videos: tuple[str, ...] = ()  # clips, in the order they were read
    preprocessing: str = "{}"  # how their frames were made, as JSON

    @classmethod
    def of(
        cls,
        backbone: VideoBackbone,
        include_newline: bool,
        videos: Sequence[str] = (),
        preprocessing: Mapping[str, object] | None = None,
    ) -> Self:
        """Describe a guidance of this backbone."""
        return cls(
            backbone.name,
            backbone.fingerprint,
            backbone.frame_size,
            include_newline,
            tuple(videos),
            json.dumps(dict(preprocessing or {}), sort_keys=True),
        )

    def difference(self, here: Self) -> str | None:
        """Describe the first difference, or return None; names of backbones may differ."""
        for what in ("fingerprint", "frame_size", "include_newline", "preprocessing"):
            made_with, wanted = getattr(self, what), getattr(here, what)
            if made_with != wanted:
                return f"its {what} is {made_with}, here it is {wanted}"
        clips = enumerate(zip_longest(self.videos, here.videos, fillvalue="none"), 1)
        return next(
            (
                f"its clip {i} is {one}, here it is {other}"
                for i, (one, other) in clips
                if one != other
            ),
            None,
        )

    def notes(self) -> dict[str, str]:
        """Return the metadata for a safetensors file."""
        fields = vars(self).items()
        return {name: one if isinstance(one, str) else json.dumps(one) for name, one in fields}

    @classmethod
    def of_notes(cls, notes: Mapping[str, str]) -> Self:
        """Read the metadata of a file; raise KeyError, TypeError or ValueError if it is invalid."""
        height, width = json.loads(notes["frame_size"])
        return cls(
            notes["backbone"],
            notes["fingerprint"],
            (height, width),
            json.loads(notes["include_newline"]),
            tuple(json.loads(notes["videos"])),
            notes["preprocessing"],
        )


@dataclass(frozen=True)
class InterfaceGuidance:
    """Reference statistics of the video interface; means are over frames only.

    Shapes for SigLIP so400m at 384 px: keys and values (26, 16, 729, 72).
    """

    keys: Tensor = field(repr=False)  # (L, h, S, d) float32
    values: Tensor = field(repr=False)  # (L, h, S, d) float32
    token_mean: Tensor = field(repr=False)  # (W,) float32
    token_var: Tensor = field(repr=False)  # (W,) float32, population variance
    num_frames: int
    num_videos: int
    source: GuidanceSource
    frame_spread: Tensor | None = field(default=None, repr=False)
    """(2, 2, L) float64, variance of keys and of values: between frames, and between the means of
    videos, averaged over heads, positions and channels. None in files of older versions."""

    def save(self, path: Path) -> None:
        """Write a safetensors file, atomically."""
        metadata = {
            "format": _FORMAT,
            "num_frames": str(self.num_frames),
            "num_videos": str(self.num_videos),
            **self.source.notes(),
        }
        if self.frame_spread is not None:
            metadata["frame_spread"] = json.dumps(self.frame_spread.tolist())
        tensors = {name: getattr(self, name).cpu().contiguous() for name in _TENSORS}
        with atomic_file(path) as unfinished:
            save_file(tensors, unfinished, metadata)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a guidance file.

        Raises:
            GuidanceError: the file is missing, damaged or not a guidance, or a value is not finite.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(f"its format is {metadata.get('format')!r}, not {_FORMAT!r}")
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            for name, tensor in tensors.items():
                if tensor.dtype != torch.float32 or not tensor.isfinite().all():
                    raise ValueError(f"its {name} are not finite float32 numbers")
            source = GuidanceSource.of_notes(metadata)
            counts = int(metadata["num_frames"]), int(metadata["num_videos"])
            spread = _frame_spread(metadata.get("frame_spread"), tensors["keys"].shape[:1])
        except (*PARSE_ERRORS, SafetensorError) as error:
            raise GuidanceError(
                f"guidance file {path} cannot be used: {error}. Delete it, or leave the path out, "
                "and it is computed again from the reference videos"
            ) from error
        return cls(
            **tensors,
            num_frames=counts[0],
            num_videos=counts[1],
            source=source,
            frame_spread=spread,
        )

    def check(self, backbone: VideoBackbone, include_newline: bool, path: Path) -> None:
        """Check that the guidance fits the run, whatever videos it was made with.

        Raises:
            GuidanceError: its backbone, frame size, newline setting or shapes differ; both are
                named.
        """
        here = replace(
            GuidanceSource.of(backbone, include_newline),
            videos=self.source.videos,
            preprocessing=self.source.preprocessing,
        )
        differs = self.source.difference(here)
        layers = (len(backbone.attention_layers()), *_attention_shape(backbone))
        shapes = (layers, layers, (backbone.token_size,), (backbone.token_size,))
        for name, shape in zip(_TENSORS, shapes, strict=True):
            if not differs and (found := tuple(getattr(self, name).shape)) != shape:
                differs = f"its {name} are {found}, here they are {shape}"
        if differs:
            raise GuidanceError(
                f"guidance file {path} does not fit this run: {differs} (it was made with "
                f"{self.source.backbone}, this is {here.backbone}). Leave the path out to compute "
                "the guidance again, or use the backbone it was made for"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the tensors."""
        return tensors_hash({name: getattr(self, name) for name in _TENSORS})


def token_rows(backbone: VideoBackbone, tokens: Tensor, include_newline: bool) -> Tensor:
    """Flatten tokens (B, T, N, W) into the rows (R, W) of token statistics.

    ``include_newline`` adds the newline token once per video, as the released code does.

    Raises:
        UserError: the backbone has no newline token.
    """
    rows = tokens.flatten(0, 2)
    if include_newline:
        if backbone.newline is None:
            raise UserError(
                f"include_newline=true, but {backbone.name} ends its streams without a newline "
                "token; use an objective without it, such as AlignmentObjective"
            )
        rows = torch.cat([rows, backbone.newline.expand(len(tokens), -1)])
    return rows


def merge_moments(parts: Tensor) -> Tensor:
    """Merge count, mean and summed squared deviation of disjoint sets by Chan's formula.

    Args:
        parts: (P, 3, D) float64, count, mean and M2 of P sets; empty sets do not change any bit.

    Returns:
        (3, D), count, mean and M2 of the union.
    """
    counts, means, deviations = parts.unbind(1)  # each (P, D)
    total = counts.sum(0)
    origin = means.gather(0, counts.argmax(0, keepdim=True))  # (1, D) of the largest set
    mean = origin[0] + (counts * (means - origin)).sum(0) / total.clamp(min=1)
    deviation = deviations.sum(0) + (counts * (means - mean).square()).sum(0)
    return torch.stack([total, mean, deviation])


def moments(rows: Tensor) -> Tensor:
    """Return count, mean and summed squared deviation of rows (R, D) as (3, D) float64."""
    rows = rows.double()
    mean = rows.mean(0)
    deviation = (rows - mean).square().sum(0)
    return torch.stack([torch.full_like(mean, len(rows)), mean, deviation])


class GuidanceStatistics(Metric):
    """Accumulates guidance over batches and process ranks.

    Args:
        backbone: the frozen model whose interface is measured.
        include_newline: count the newline token once per video, as the released code does.
    """

    full_state_update = False
    key_sum: Tensor
    value_sum: Tensor
    square_sums: Tensor
    token_moments: Tensor
    num_frames: Tensor
    num_videos: Tensor

    def __init__(self, backbone: VideoBackbone, include_newline: bool = False) -> None:
        super().__init__()
        self._backbone = [backbone]  # in a list, so not a submodule
        self.include_newline = include_newline
        heads, positions, channels = _attention_shape(backbone)
        shape = (len(backbone.attention_layers()), heads, positions, channels)
        self.add_state("key_sum", torch.zeros(shape, dtype=torch.float64), "sum")
        self.add_state("value_sum", torch.zeros(shape, dtype=torch.float64), "sum")
        # Of keys and of values: Σ‖K_f‖² over frames, and Σ F_v ‖mean of K_f‖² over videos.
        self.add_state("square_sums", torch.zeros(2, 2, shape[0], dtype=torch.float64), "sum")
        empty = torch.zeros(3, backbone.token_size, dtype=torch.float64)
        self.add_state("token_moments", empty, merge_moments)
        self.add_state("num_frames", torch.tensor(0), "sum")
        self.add_state("num_videos", torch.tensor(0), "sum")

    def update(self, frames: Tensor) -> None:
        """Add a batch of videos (B, T, 3, H, W), uint8 or normalised; all frames weigh the same."""
        for video in frames:
            self._add(video[None])

    def _add(self, video: Tensor) -> None:
        backbone, sums = self._backbone[0], (self.key_sum, self.value_sum)
        of_video = [torch.zeros_like(whole, dtype=torch.float32) for whole in sums]

        def hear(call: AttentionCall) -> None:  # of some of the frames
            for part, heard in enumerate((call.key, call.value)):
                # float32 within a video, which is many times faster; float64 over videos.
                total = heard.sum(0, dtype=torch.float32)
                sums[part][call.layer] += total
                of_video[part][call.layer] += total
                self.square_sums[part, 0, call.layer] += heard.float().square().sum()

        with torch.inference_mode(), listen(backbone.attention_layers(), hear, backbone.positions):
            tokens = backbone.encode(video)  # (1, T, N, W)
        rows = token_rows(backbone, tokens, self.include_newline)
        self.token_moments = merge_moments(torch.stack([self.token_moments, moments(rows)]))
        for part, total in enumerate(of_video):
            squares = total.flatten(1).square().sum(1, dtype=torch.float64)
            self.square_sums[part, 1] += squares / video.shape[1]
        self.num_frames += video.shape[1]
        self.num_videos += 1

    def compute(self) -> dict[str, Tensor]:
        """Means over everything seen so far, on all ranks, in float32."""
        count, mean, deviation = self.token_moments
        means = [total / self.num_frames for total in (self.key_sum, self.value_sum)]
        numbers = means[0][0].numel()
        squares = torch.stack([of.flatten(1).square().mean(1) for of in means])  # (2, L)
        seen = self.square_sums / (self.num_frames * numbers)
        return {
            "keys": means[0].float(),
            "values": means[1].float(),
            "frame_spread": (seen - squares[:, None]).clamp(min=0),  # (2, 2, L)
            "token_mean": mean.float(),
            "token_var": (deviation / count).float(),
            "num_frames": self.num_frames,
            "num_videos": self.num_videos,
        }

    def guidance(self) -> InterfaceGuidance:
        """Return the guidance of everything seen so far, on all ranks.

        Raises:
            GuidanceError: no video was seen.
        """
        with warnings.catch_warnings():
            # This rank may not have seen any.
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            means = self.compute()
        frames, videos = int(means.pop("num_frames")), int(means.pop("num_videos"))
        if videos == 0:
            raise GuidanceError("no reference video was seen; check the reference data folder")
        source = GuidanceSource.of(self._backbone[0], self.include_newline)
        return InterfaceGuidance(**means, num_frames=frames, num_videos=videos, source=source)


def estimate_guidance(
    backbone: VideoBackbone, batches: Iterable[Tensor], include_newline: bool = False
) -> InterfaceGuidance:
    """Measure the video interface of a frozen backbone (paper section 3.2, eq. 2-3).

    Args:
        backbone: the model; its adapters are off.
        batches: frames (B, T, 3, H, W) of plain videos; T may differ between batches.
        include_newline: count the newline token in the token statistics.

    Raises:
        GuidanceError: ``batches`` is empty.
    """
    statistics = GuidanceStatistics(backbone, include_newline).to(backbone.device)
    for frames in batches:
        statistics.update(frames.to(backbone.device))
    return statistics.guidance()


def _attention_shape(backbone: VideoBackbone) -> tuple[int, int, int]:
    layer: Any = backbone.attention_layers()[0]
    return layer.num_heads, backbone.positions, layer.head_dim


def _frame_spread(note: str | None, layers: torch.Size) -> Tensor | None:
    """Read the variances of a file; raise ValueError or TypeError if they are invalid."""
    if note is None:
        return None
    spread = torch.tensor(json.loads(note), dtype=torch.float64)
    if spread.shape != (2, 2, *layers) or not (spread.isfinite() & (spread >= 0)).all():
        raise ValueError("its frame_spread is not the variances of every layer")
    return spread
