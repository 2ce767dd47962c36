"""Copying other RGB-D recordings into ScanNet's layout, so that one reader serves them all."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from rich import print as say
from rich.progress import track

from datamodules.media.images import read_colour, read_depth
from datamodules.media.scannet import open_scene
from datamodules.samples import BadSample

_NO_DEPTH = 65535  # 7-Scenes' mark of a pixel without measurement; ScanNet's is 0


def prepare_7scenes(source: Path, out: Path, scene: str | None = None) -> Path:
    """Copy a 7-Scenes sequence to ``out/scans/<scene>``, complete or not at all.

    Reads ``frame-XXXXXX.{color.jpg|color.png, depth.png, pose.txt}`` and the 3x3
    ``camera-intrinsics.txt`` of the depth camera. Pixels marked 65535 become 0. Poses are copied as
    they are: both datasets give camera to world.

    Args:
        source: folder of the sequence.
        out: root of the copy; other scenes in it stay as they are.
        scene: name of the scene, by default that of the source folder.

    Returns:
        The folder of the scene.

    Raises:
        BadSample: a file is missing or damaged; nothing is left behind.
        FileExistsError: the scene is there already and differs; if it is the same, that is said.
    """
    name = scene or source.resolve().name
    if Path(name).name != name or name.startswith("."):
        raise ValueError(f"scene={name!r} is no folder name; give one such as chess or redkitchen")
    target = out / "scans" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=target.parent) as staging:
        unfinished = Path(staging) / name
        _copy(source, unfinished)
        open_scene(unfinished)
        if not target.exists():
            unfinished.rename(target)
            say(f"{target} is ready")
        elif _identical(unfinished, target):
            say(f"{target} is already complete, nothing to do")
        else:
            raise FileExistsError(
                f"{target} exists and is not a copy of {source}; remove it, or give another scene "
                "name or output folder"
            )
    return target


def _copy(source: Path, folder: Path) -> None:
    depths = sorted(source.glob("frame-*.depth.png"))
    intrinsics = source / "camera-intrinsics.txt"
    if not depths or not intrinsics.is_file():
        raise BadSample(
            source,
            f"has {len(depths)} frame-*.depth.png and "
            f"{'a' if intrinsics.is_file() else 'no'} camera-intrinsics.txt",
            "Give the folder of one sequence; its camera is fx = fy = 585, cx = 320, cy = 240",
        )
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    shutil.copyfile(intrinsics, folder / "intrinsic" / "intrinsic_depth.txt")
    for path in track(depths, f"Copying {source.name}"):
        moment = path.name.removesuffix(".depth.png")
        number = int(moment.removeprefix("frame-"))
        depth = read_depth(path).numpy().astype(np.uint16)
        depth[depth == _NO_DEPTH] = 0
        Image.fromarray(depth).save(folder / "depth" / f"{number}.png")
        colour = next(source.glob(f"{moment}.color.[jp][pn]g"), None)
        pose = source / f"{moment}.pose.txt"
        if colour is None or not pose.is_file():
            raise BadSample(
                path,
                f"has no {moment}.pose.txt" if colour else f"has no {moment}.color.jpg or .png",
                "Copy the sequence again, with all of its files",
            )
        read_colour(colour)
        shutil.copyfile(colour, folder / "color" / f"{number}{colour.suffix}")
        shutil.copyfile(pose, folder / "pose" / f"{number}.txt")


def _identical(one: Path, other: Path) -> bool:
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    if files != {path.relative_to(other) for path in other.rglob("*") if path.is_file()}:
        return False
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in files)
