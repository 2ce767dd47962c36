"""What PAVE has on disk: its patch beside the LLM's adapter, and features computed beforehand."""

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
    """Write ``patch.safetensors`` and ``made_with.json`` into a folder, at once or not at all."""
    with atomic_folder(folder) as unfinished:
        save_file(
            {name: tensor.detach().cpu() for name, tensor in patch.state_dict().items()},
            unfinished / "patch.safetensors",
        )
        (unfinished / "made_with.json").write_text(json.dumps(made_with, indent=1))


def load_patch(patch: TemporalPatch, folder: Path) -> None:
    """Load saved weights; every tensor must be found.

    Raises:
        AdapterError: the file is missing or damaged, its patch has other sizes, or a value is not
            finite.
    """
    file = folder / "patch.safetensors"
    try:
        tensors = load_file(file)
    except (*PARSE_ERRORS, SafetensorError) as error:
        raise AdapterError(
            f"{file}: cannot be read as a patch ({error}); it lies beside an LLM adapter that was "
            "tuned with PAVE, so copy both folders again or tune PAVE anew"
        ) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in patch.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := sorted(dict(wanted.items() ^ found.items())):
        name = wrong[0]
        raise AdapterError(
            f"{file}: {len(wrong)} tensors do not fit, for example {name}, which is "
            f"{found.get(name, 'missing')} there and {wanted.get(name, 'missing')} in this run; "
            "give model.side_dim, hidden, layers and tied as in its tuning, and its backbone"
        )
    for name, tensor in tensors.items():
        if not holds_finite_numbers(tensor):
            raise AdapterError(
                f"{file}: {name} holds other than finite numbers of float16 or more; tune anew"
            )
    patch.load_state_dict(tensors)


def read_features(folder: Path, clip: str, channels: int) -> Tensor:
    """Features of a clip's side channel: the tensor ``features`` in ``<clip>.safetensors``.

    Args:
        folder: of one file a clip.
        clip: its name, as annotations have it; it may lie in folders inside the folder.
        channels: C.

    Returns:
        (U, R, C) floating point, R tokens at each of U moments.

    Raises:
        UserError: the name leads out of the folder; the file is missing, damaged, or holds anything
            else.
    """
    name = f"{clip}.safetensors"
    if not clip or not stays_inside(folder, name):
        raise UserError(
            f"{folder}: clip {clip!r} leads out of it, so that its features are not opened; rename "
            "it in the annotations, or copy or mount what lies elsewhere"
        )
    file = folder / name
    try:
        with safe_open(file, "pt") as entry:
            features: Tensor = entry.get_tensor("features")
        if features.ndim != 3 or features.shape[-1] != channels or not features.numel():
            raise ValueError(f"features are {tuple(features.shape)}, not (U, R, {channels})")
        if not holds_finite_numbers(features):
            raise ValueError("features hold other than finite numbers of float16 or more")
    except (*PARSE_ERRORS, SafetensorError) as error:
        raise UserError(
            f"{file}: holds no features of the side channel that can be used ({error}); compute "
            f"them anew for clip {clip!r}, or correct model.side_features and model.side_dim"
        ) from error
    return features
