"""Training-free baselines: maps of raw tokens onto the moments of video tokens, in closed form.

``python -m experiments.paper.moments OUT CONFIGURATION...`` measures the moments that all maps
need, of the plain videos and the clips of an alignment with these settings.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import linear
from typing_extensions import override

from datamodules.base import ModalityDataModule
from vlynx_pl.adapters import tensors_hash
from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.commands.configuration import instantiate
from vlynx_pl.commands.plan.making import parsed_run
from vlynx_pl.io.files import atomic_file
from vlynx_pl.io.progress import track
from vlynx_pl.runs.provenance import provenance, redact_paths
from vlynx_pl.streams import AlignedStreams

Map = Literal["shift", "scale", "transport", "colouring"]
_RIDGE: Final = 1e-4  # of the mean variance, since some directions hardly vary
_VIDEOS: Final = 500  # as in the study's alignments


@dataclass(frozen=True)
class Moments:
    """Mean (W,) and covariance (W, W) of tokens, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> Self:
        """Measure tokens (..., W) in one pass."""
        count, first, second = 0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            rows = batch.flatten(0, -2).double()
            count, first, second = count + len(rows), first + rows.sum(0), second + rows.T @ rows
        mean = first / count
        return cls(mean, second / count - mean.outer(mean))


def affine(how: Map, raw: Moments, video: Moments) -> tuple[Tensor, Tensor]:
    """Return A (W, W) and b (W,) with which A x + b has moments of video.

    Args:
        how: ``shift`` matches the mean; ``scale`` also each channel's variance; ``transport`` and
            ``colouring`` also all covariances, with the least change of tokens (optimal transport
            of Gaussians), or by whitening and colouring.
        raw: of the tokens to be mapped.
        video: of video tokens.
    """
    match how:
        case "shift":
            matrix = torch.eye(len(raw.mean), dtype=torch.float64)
        case "scale":
            matrix = (video.covariance.diag() / raw.covariance.diag()).sqrt().diag()
        case "transport":
            root, inverse = _power(raw.covariance, 0.5), _power(raw.covariance, -0.5)
            matrix = inverse @ _power(root @ video.covariance @ root, 0.5) @ inverse
        case "colouring":
            matrix = _power(video.covariance, 0.5) @ _power(raw.covariance, -0.5)
    return matrix, video.mean - matrix @ raw.mean


def _power(covariance: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    least = _RIDGE * float(values.mean())
    return (vectors * values.clamp(min=least) ** exponent) @ vectors.T


class MatchedMoments(AlignedStreams):
    """Tokens of the untouched base, of which one modality's are mapped onto video's moments.

    Args:
        modality: the stream.
        moments: folder that this module's command has written.
        how: see :func:`affine`.
    """

    def __init__(self, modality: str, moments: str, how: Map) -> None:
        super().__init__({modality: "base"})
        self._modality = modality
        measured = load_file(Path(moments) / "moments.safetensors")
        raw, video = (
            Moments(measured[f"{of}.mean"], measured[f"{of}.covariance"]) for of in ("raw", "video")
        )
        self._matrix, self._offset = (part.float() for part in affine(how, raw, video))
        self._how = {"map": how, "moments": tensors_hash(measured)}

    @override
    def encode(self, episode: Any) -> dict[str, Tensor]:
        encoded = super().encode(episode)
        tokens = encoded[self._modality]
        matrix, offset = self._matrix.to(tokens.device), self._offset.to(tokens.device)
        mapped = linear(tokens.float(), matrix, offset).to(tokens.dtype)
        return {**encoded, self._modality: mapped}

    @override
    def reads(self) -> dict[str, dict[str, Any]]:
        return {name: how | self._how for name, how in super().reads().items()}


def measure(out: Path, arguments: list[str]) -> None:
    """Write the moments of raw tokens and of video tokens, and how they were made."""
    run = parsed_run("moments", arguments)
    backbone: VideoBackbone = instantiate(VideoBackbone, run["backbone"])
    data: ModalityDataModule = instantiate(
        ModalityDataModule, run["data"], frame_size=backbone.frame_size
    )
    data.setup("fit")
    count = min(_VIDEOS, len(data.reference_names()))
    loaders = {"video": data.reference_dataloader(range(count)), "raw": data.train_dataloader()}
    tensors = {}
    with torch.inference_mode():
        for of, loader in loaders.items():
            found = Moments.of(
                backbone.encode(batch["frames"]) for batch in track(loader, f"Moments: {of}")
            )
            tensors |= {f"{of}.mean": found.mean, f"{of}.covariance": found.covariance}
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "moments.safetensors") as unfinished:
        save_file(tensors, unfinished)
    with atomic_file(out / "moments.json") as unfinished:
        unfinished.write_text(json.dumps({"provenance": redact_paths(provenance())}))


if __name__ == "__main__":
    measure(Path(sys.argv[1]), sys.argv[2:])
