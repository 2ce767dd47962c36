"""``vlynx new-modality``: a package with a modality to start from.

``template/`` is such a package for the modality ``my_signal``. It is copied with other names.
"""

import re
from importlib.resources import files
from pathlib import Path

import yaml
from rich import print as say

from datamodules.modalities.installed import installed_modalities
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.files import atomic_folder


def new_modality(name: str, out: Path | None = None) -> None:
    """Write a package whose entry point adds a modality.

    Args:
        name: of the modality.
        out: new folder; None is ``vlynx-<name>``.

    Raises:
        UserError: the name cannot be used, or the folder exists.
        OSError: the folder cannot be written.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or yaml.safe_load(name) != name:
        raise UserError(
            f"{name!r} cannot be the name of a modality; give lower-case letters, digits and _, "
            "such as radar"
        )
    taken = {"video", *(one.name for one in installed_modalities())}
    if name in taken:
        raise UserError(f"{name!r} is taken, as are {', '.join(sorted(taken))}; give another name")
    out = out or Path(f"vlynx-{name}")
    if out.exists():
        raise UserError(f"{out} exists; give a new folder with --out")
    names = {"my_signal": name, "MySignal": name.title().replace("_", "")}
    with atomic_folder(out) as unfinished:
        for file in files(__name__).joinpath("template").iterdir():
            if file.is_file():
                path = unfinished / _renamed(file.name, names)
                path.write_text(_renamed(file.read_text("utf-8"), names), "utf-8")
    say(f"{out} is ready; its README.md says how to go on")


def _renamed(text: str, names: dict[str, str]) -> str:
    return re.sub("|".join(names), lambda found: names[found[0]], text)
