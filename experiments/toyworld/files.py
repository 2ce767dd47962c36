"""Files of a toy world: scenes in the layout that ScanNet's SensReader exports, and JSON."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.toyworld.render import SIZE, intrinsics, render_scene
from experiments.toyworld.scene import Scene


def write_json(out: Path, files: Mapping[str, object]) -> None:
    """Write files, given as path below ``out`` → content."""
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(json.dumps(content))


def write_scene(scene: Scene, folder: Path, size: int = SIZE) -> None:
    """Render a scene into ``folder``: color/, depth/ (16-bit PNG in mm), pose/ and intrinsic/."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    for part in ("color", "depth", "pose", "intrinsic"):
        (unfinished / part).mkdir(parents=True)
    rendered = render_scene(scene, size)
    for i, (colour, depth) in enumerate(zip(rendered.colour, rendered.depth, strict=True)):
        (unfinished / "color" / f"{i}.jpg").write_bytes(jpeg(colour))
        Image.fromarray(depth).save(unfinished / "depth" / f"{i}.png", compress_level=1)
        (unfinished / "pose" / f"{i}.txt").write_text(_matrix(scene.poses[i]))
    camera = np.eye(4)
    camera[:3, :3] = intrinsics(size)
    for stream in ("color", "depth"):
        (unfinished / "intrinsic" / f"intrinsic_{stream}.txt").write_text(_matrix(camera))
        (unfinished / "intrinsic" / f"extrinsic_{stream}.txt").write_text(_matrix(np.eye(4)))
    unfinished.rename(folder)


def jpeg(frame: NDArray[np.uint8]) -> bytes:
    """Encode a colour frame (H, W, 3) as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _matrix(values: NDArray[np.float64]) -> str:
    """Format a matrix as ScanNet does: one line per row, six digits."""
    return "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in values)
