"""Adds instance labels to a 3d toy world that exists; it is generated without.

python -m experiments.toyworld.instances DIR
"""

import argparse
import json
import sys
from pathlib import Path

from PIL import Image

from datamodules.media.instances import INSTANCES
from datamodules.samples import BadSample
from experiments.toyworld.generate import MANIFEST
from experiments.toyworld.render import render_scene
from experiments.toyworld.scene import sample_scene
from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.io.files import atomic_folder
from vlynx_pl.io.progress import track


def add_instances(world: Path) -> None:
    """Write ``instance-filt/<i>.png`` into each scene of a world: 1 + the object's index, or 0.

    Raises:
        BadSample: the folder is not a complete 3d world.
    """
    try:
        made = json.loads((world / MANIFEST).read_text())
        seed, count, frames = made["seed"], made["scenes"], made["frames"]
    except PARSE_ERRORS as error:
        raise BadSample(
            world,
            f"is not a complete 3d toy world ({error})",
            "Generate it with python -m experiments.toyworld 3d",
        ) from error
    for index in track(range(count), "Instance labels"):
        scene = sample_scene(seed, index, frames)
        labels = (render_scene(scene, made["size"]).objects + 1).astype("uint8")
        with atomic_folder(world / "scans" / scene.name / INSTANCES) as folder:
            for number, frame in enumerate(labels):
                Image.fromarray(frame).save(folder / f"{number}.png")


def main() -> None:
    """Parse the arguments and add the labels; a user's mistake is reported in one line."""
    parser = argparse.ArgumentParser(
        "python -m experiments.toyworld.instances", description=__doc__
    )
    parser.add_argument("world", type=Path, help="folder of a 3d toy world")
    try:
        add_instances(parser.parse_args().world)
    except (UserError, OSError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
