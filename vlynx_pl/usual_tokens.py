"""Usual tokens, for reduction by salience: a stream's mean token at each place of a frame."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlynx_pl.adapters import AdapterError
from vlynx_pl.distributed import total_over_ranks
from vlynx_pl.io.errors import PARSE_ERRORS
from vlynx_pl.io.files import atomic_file
from vlynx_pl.saved_adapters import holds_finite_numbers


class UsualTokenSums:
    """Float64 sums of a stream's tokens at each place."""

    def __init__(self) -> None:
        self._sum, self._frames = torch.zeros((), dtype=torch.float64), 0

    def update(self, tokens: Tensor) -> None:
        """Add the tokens (T, N, W) of a clip."""
        self._sum = self._sum.to(tokens.device) + tokens.double().sum(0)
        self._frames += len(tokens)

    def mean(self, shape: tuple[int, int], device: torch.device) -> Tensor:
        """Return the mean (N, W), float32, over the frames of all ranks, which call this together.

        Args:
            shape: (N, W).
            device: of the process group.
        """
        total = total_over_ranks(self._sum.to(device).expand(shape))
        frames = total_over_ranks(torch.tensor(self._frames, device=device, dtype=torch.float64))
        return (total / frames).float()


def save_usual(file: Path, usual: Mapping[str, Tensor], made_with: Mapping[str, Any]) -> None:
    """Write usual tokens (N, W) of streams.

    Args:
        file: written atomically.
        usual: stream → tokens.
        made_with: stream → fingerprints of its backbone and adapter.
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in usual.items()}
    with atomic_file(file) as unfinished:
        save_file(tensors, unfinished, {"made_with": json.dumps(made_with)})


def load_usual(
    file: Path, made_with: Mapping[str, Any], shape: tuple[int, int]
) -> dict[str, Tensor]:
    """Read usual tokens of streams.

    Args:
        file: from :func:`save_usual`.
        made_with: stream → fingerprints that it must have.
        shape: (N, W).

    Raises:
        AdapterError: the file is missing or damaged, or belongs to another model.
    """
    try:
        with safe_open(file, "pt") as opened:
            found = dict(json.loads(opened.metadata()["made_with"]))
            if wrong := [name for name in made_with if found.get(name) != made_with[name]]:
                raise ValueError(
                    f"the usual tokens of {wrong[0]!r} are of {found.get(wrong[0])}, and this run "
                    f"reads it with {made_with[wrong[0]]}"
                )
            tensors = {name: opened.get_tensor(name) for name in made_with}
        for name, tensor in tensors.items():
            if tensor.shape != shape or not holds_finite_numbers(tensor):
                raise ValueError(f"{name!r} is not {shape} finite numbers")
    except (*PARSE_ERRORS, SafetensorError) as error:
        raise AdapterError(
            f"{file} cannot be used as the usual tokens of {' and '.join(made_with)} ({error}); "
            "use the backbone and vision adapters of its tuning, or tune again"
        ) from error
    return tensors
