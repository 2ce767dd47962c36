"""What an analysis leaves: Markdown, JSON and PNG, each file written atomically."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor

from vlynx_pl.io.files import atomic_file


def write_results(
    out: Path, name: str, figures: Mapping[str, Any], text: str, pictures: Mapping[str, Figure]
) -> None:
    """Write ``name``.json and ``name``.md and the pictures into a folder, and print the text.

    Files of an earlier analysis are replaced.

    Args:
        out: the folder.
        name: without suffix.
        figures: plain data, tensors and NaN, which becomes null as infinity does.
        text: Markdown.
        pictures: name without suffix → figure.

    Raises:
        OSError: a file cannot be written.
    """
    for picture, figure in pictures.items():
        with atomic_file(out / f"{picture}.png") as unfinished:
            figure.savefig(unfinished, dpi=120, format="png")
    for suffix, content in (("json", json.dumps(plain(figures), indent=1)), ("md", text)):
        with atomic_file(out / f"{name}.{suffix}") as unfinished:
            unfinished.write_text(content + "\n", encoding="utf-8")
    Console().print(Markdown(text))
    Console(stderr=True).print(f"Written to {out}", markup=False, soft_wrap=True)


def plain(figures: Any) -> Any:
    """Return data that JSON has: NaN and infinity become None."""
    if isinstance(figures, Tensor):
        figures = figures.tolist()
    if isinstance(figures, Mapping):
        return {str(name): plain(value) for name, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [plain(value) for value in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures


def number(value: float, form: str = ".3g") -> str:
    """Format a figure; NaN, which is unknown, is a dash."""
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else format(value, form)
