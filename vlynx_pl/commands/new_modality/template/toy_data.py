"""Write toy recordings and their videos: python toy_data.py data.

A disc moves through the video. Only the sensor shows how strong its signal is.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

_SIDE, _FRAMES = 64, 8


def write_toy_data(folder: Path, recordings: int = 20) -> None:
    """Write ``<number>.npy`` and ``videos/<number>.gif``."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    for number in range(recordings):
        random = np.random.default_rng(number)
        starts, ends = random.uniform(16, 48, (2, 2))
        colour = random.integers(64, 256, 3)
        strength = random.uniform(0.2, 1)
        place = np.linspace(starts, ends, _FRAMES)  # (T, 2)
        down = rows - place[:, 0, None, None]
        across = columns - place[:, 1, None, None]
        disc = np.hypot(down, across) < 10  # (T, H, W)
        np.save(folder / f"{number:03}.npy", (strength * disc).astype(np.float32))
        pixels = np.where(disc[..., None], colour, 32).astype(np.uint8)
        first, *others = map(Image.fromarray, pixels)
        path = folder / "videos" / f"{number:03}.gif"
        first.save(path, save_all=True, append_images=others, duration=250)


if __name__ == "__main__":
    write_toy_data(Path(sys.argv[1]))
