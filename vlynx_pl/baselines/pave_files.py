"""PAVE's files: the patch beside the LLM's adapter, and precomputed features."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlynx_pl.adapters import AdapterError
from vlynx_pl.baselines.pave import TemporalPatch
from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.io.files import atomic_folder, stays_inside
from vlynx_pl.saved_adapters import holds_finite_numbers


def save_patch(patch: TemporalPatch, folder: Path, made_with: Mapping[str, Any]) -> None:
    """Write ``patch.safetensors`` and ``made_with.json`` into a folder, atomically."""
    with atomic_folder(folder) as unfinished:
        save_file(
            {name: tensor.detach().cpu() for name, tensor in patch.state_dict().items()},
            unfinished / "patch.safetensors",
        )
        (unfinished / "made_with.json").write_text(json.dumps(made_with, indent=1))


def load_patch(patch: TemporalPatch, folder: Path) -> None:
    """Load saved weights.

    Raises:
        AdapterError: the file is missing or damaged, tensors differ in name or shape, or a value is
            not finite.
    """
    file = folder / "patch.safetensors"
    try:
        tensors = load_file(file)
    except (*PARSE_ERRORS, SafetensorError) as error:
        raise AdapterError(
            f"{file}: cannot be read as a patch ({error}); it lies beside an LLM adapter that was "
            "tuned with PAVE, so copy both folders again or tune PAVE again"
        ) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in patch.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := sorted(dict(wanted.items() ^ found.items())):
        name = wrong[0]
        raise AdapterError(
            f"{file}: {len(wrong)} tensors do not fit, for example {name}, which is "
            f"{found.get(name, 'missing')} there and {wanted.get(name, 'missing')} in this run; "
            "use the backbone, and model.streams.side_dim, hidden, layers and tied, of its tuning"
        )
    for name, tensor in tensors.items():
        if not holds_finite_numbers(tensor):
            raise AdapterError(
                f"{file}: {name} contains values that are not finite floats of 16 bits or more; "
                "tune PAVE again"
            )
    patch.load_state_dict(tensors)


def read_features(folder: Path, clip: str, channels: int) -> Tensor:
    """Read the features of a clip's side channel, ``features`` in ``<clip>.safetensors``.

    Args:
        folder: of one file per clip.
        clip: its name in the annotations; may contain subfolders.
        channels: C.

    Returns:
        (U, R, C) floating point, R tokens at each of U timestamps.

    Raises:
        UserError: the name leads out of the folder, or the file is missing, damaged or has other
            content.
    """
    name = f"{clip}.safetensors"
    if not clip or not stays_inside(folder, name):
        raise UserError(
            f"{folder}: clip {clip!r} leads out of it, so its features are not opened; rename it "
            "in the annotations, or copy or mount the features there"
        )
    file = folder / name
    try:
        with safe_open(file, "pt") as entry:
            features: Tensor = entry.get_tensor("features")
        if features.ndim != 3 or features.shape[-1] != channels or not features.numel():
            raise ValueError(f"features are {tuple(features.shape)}, not (U, R, {channels})")
        if not holds_finite_numbers(features):
            raise ValueError("features are not finite floats of 16 bits or more")
    except (*PARSE_ERRORS, SafetensorError) as error:
        raise UserError(
            f"{file}: its features of the side channel cannot be used ({error}); compute them "
            f"again for clip {clip!r}, or correct model.streams.side_features and side_dim"
        ) from error
    return features
