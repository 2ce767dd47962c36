"""``vlynx analyse guidance``: the paper's Table B2 and Figure B2, from guidance files alone."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from vlynx_pl.analysis.dominance import LayerDominance, dominance
from vlynx_pl.analysis.dominance_figure import draw_dominance
from vlynx_pl.commands.analyse.writing import number, write_results
from vlynx_pl.guidance import InterfaceGuidance
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.markdown import table

_READING = """\
*Sources* is the variance between the means of the guidances, and *dominance* is magnitude / sources
(paper, eq. 11-13). Both say little on their own: means over thousands of frames hardly differ,
whatever the frames do. *Videos* and *frames* are the variances between the videos and between the
frames of a guidance; *chance* is what is left of the latter in a mean over as many frames.
*K² / frames* is near 1 where a single frame differs from the mean as much as the mean from zero."""


def compare(files: Sequence[Path], out: Path) -> None:
    """Write ``dominance.json``, ``.md`` and ``.png`` into a folder, and print the tables.

    Raises:
        UserError: a file is not a guidance, or is given twice, or two are of different backbones.
        OSError: the folder cannot be written.
    """
    for number_, path in enumerate(files):
        if path in files[:number_]:
            raise UserError(f"{path} is given twice; its variance from itself is zero")
    guidances = {str(path): InterfaceGuidance.load(path) for path in files}
    found = dominance(guidances)
    figures = {"guidances": described(guidances), "dominance": as_data(found)}
    pictures = {"dominance": draw_dominance(found)}
    write_results(out, "dominance", figures, text(guidances, found), pictures)


def described(guidances: Mapping[str, InterfaceGuidance]) -> dict[str, Any]:
    """Where guidances come from, as plain data."""
    return {
        name: {
            "fingerprint": one.fingerprint,
            "backbone": one.source.backbone,
            "backbone_fingerprint": one.source.fingerprint,
            "frames": one.num_frames,
            "videos": one.num_videos,
        }
        for name, one in guidances.items()
    }


def as_data(found: Mapping[str, LayerDominance]) -> dict[str, Any]:
    """All figures of each layer as plain data."""
    ratios = ("dominance", "ratio", "frame_ratio")
    return {
        part: {
            name: getattr(one, name).tolist()
            for name in (*(field.name for field in fields(one)), *ratios)
        }
        for part, one in found.items()
    }


def text(guidances: Mapping[str, InterfaceGuidance], found: Mapping[str, LayerDominance]) -> str:
    """The tables in Markdown, with how to read them."""
    sources = [
        f"- {name}: {one.num_frames:,} frames of {one.num_videos:,} videos"
        for name, one in guidances.items()
    ]
    parts = ["## Dominance of the guidance", "\n".join(sources)]
    for part, one in found.items():
        columns = {
            f"mean abs. {part}": one.magnitude,
            "rms": one.root_mean_square,
            "sources": one.sources,
            "videos": one.videos,
            "frames": one.frames,
            "chance": one.chance,
            "dominance": one.dominance,
            "K² / sources": one.ratio,
            "K² / frames": one.frame_ratio,
        }
        figures = torch.stack(list(columns.values()), 1)  # (L, columns)
        lines = {str(layer + 1): line for layer, line in enumerate(figures)}
        lines["mean"] = figures.mean(0)
        rows = [[name, *map(number, line.tolist())] for name, line in lines.items()]
        parts += [f"### {part.capitalize()}", table(["layer", *columns], rows)]
    return "\n\n".join([*parts, _READING])
