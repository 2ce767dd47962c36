"""Generates a toy world in the formats of the benchmarks; the same seed gives the same bytes.

python -m experiments.toyworld 3d --out DIR [--scenes N] [--seed S] [--workers W]
"""

import argparse
import sys
from pathlib import Path

from experiments.toyworld import generate_toyworld
from experiments.toyworld.worlds import WORLDS
from vlynx_pl.io.errors import UserError


def main() -> None:
    """Parse the arguments and generate the world; a user's mistake is reported in one line."""
    parser = argparse.ArgumentParser("python -m experiments.toyworld", description=__doc__)
    parser.add_argument("world", choices=WORLDS, help="the modality that its questions require")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--scenes", type=int, default=600, help="number of clips, at least 3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    options = parser.parse_args()
    for name, least in (("scenes", 3), ("workers", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name}={getattr(options, name)}; give {least} or more")
    try:
        generate_toyworld(**vars(options))
    except (UserError, ImportError, OSError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
