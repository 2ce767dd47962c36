"""A picture of what a toy world holds: frames, depth, and questions with their answers."""

from pathlib import Path
from textwrap import fill

import torch

from datamodules.signals.disparity import disparity
from experiments.toyworld.questions import THREE_D, questions
from experiments.toyworld.render import render_scene
from experiments.toyworld.scene import Scene

_COLUMNS = 4


def save_contact_sheet(scenes: list[Scene], path: Path, size: int = 64) -> None:
    """Draw colour and depth of some scenes with a visual and a 3D question each, as PNG."""
    from matplotlib.figure import Figure

    rows = -(-len(scenes) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * 4.2, rows * 2.7), layout="constrained")
    axes = figure.subplots(rows, 2 * _COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, scene in enumerate(scenes):
        row, column = divmod(number, _COLUMNS)
        left, right = axes[row, 2 * column : 2 * column + 2]
        rendered = render_scene(scene, size)
        depth = torch.from_numpy(rendered.depth[0].astype("float32"))
        left.imshow(rendered.colour[0])
        right.imshow(disparity(depth).permute(1, 2, 0).numpy())
        asked = questions(scene)
        visual = [q for q in asked if q.kind not in THREE_D]
        spatial = [q for q in asked if q.kind in THREE_D]
        for axis, kinds in ((left, visual), (right, spatial)):
            shown = kinds[7 * number % len(kinds)]  # another kind in every scene
            axis.set_title(f"{fill(shown.text, 28)}\n{shown.answer}", fontsize=7)
    figure.suptitle("Toy world: colour, and disparity in Turbo colours (200 to 10000 mm)")
    figure.savefig(path, dpi=110, format="png")
