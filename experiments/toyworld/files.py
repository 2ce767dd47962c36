"""One toy scene as files, in the layout that ScanNet's SensReader exports."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.toyworld.render import intrinsics, render_scene
from experiments.toyworld.scene import Scene


def write_scene(scene: Scene, folder: Path, size: int = 64) -> None:
    """Render a scene into ``folder``: color/, depth/ (16-bit PNG in mm), pose/ and intrinsic/."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    for part in ("color", "depth", "pose", "intrinsic"):
        (unfinished / part).mkdir(parents=True)
    rendered = render_scene(scene, size)
    for i, (colour, depth) in enumerate(zip(rendered.colour, rendered.depth, strict=True)):
        (unfinished / "color" / f"{i}.jpg").write_bytes(jpeg(colour))
        (unfinished / "depth" / f"{i}.png").write_bytes(png(depth))
        (unfinished / "pose" / f"{i}.txt").write_text(matrix(scene.poses[i]))
    camera = np.eye(4)
    camera[:3, :3] = intrinsics(size)
    for stream in ("color", "depth"):
        (unfinished / "intrinsic" / f"intrinsic_{stream}.txt").write_text(matrix(camera))
        (unfinished / "intrinsic" / f"extrinsic_{stream}.txt").write_text(matrix(np.eye(4)))
    unfinished.rename(folder)


def jpeg(frame: NDArray[np.uint8]) -> bytes:
    """A colour frame (H, W, 3) as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def png(depth: NDArray[np.uint16]) -> bytes:
    """A depth frame (H, W) in mm as 16-bit PNG."""
    buffer = io.BytesIO()
    Image.fromarray(depth).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def matrix(values: NDArray[np.float64]) -> str:
    """A matrix as ScanNet writes them: a row a line, six digits."""
    return "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in values)
