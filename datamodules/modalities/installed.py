"""The installed modalities: our own, and those of other packages.

A package adds one with an entry point: ``[project.entry-points."vlynx.modalities"]`` and a line
``radar = "package.module:Radar"``.
"""

from collections.abc import Mapping
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.modalities.modality import Modality
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.plugins import Installed, installed, load_class

GROUP: Final = "vlynx.modalities"
_OWN: Final[Mapping[str, str]] = {
    "3d": "datamodules.modalities.depth:Depth",
    "audio": "datamodules.modalities.audio:Audio",
    "ego": "datamodules.modalities.ego:Ego",
    "highfps": "datamodules.modalities.high_frame_rate:HighFrameRate",
    "events": "datamodules.gallery:Events",
    "imu": "datamodules.gallery:Imu",
    "thermal": "datamodules.gallery:Thermal",
}


def installed_modalities() -> list[Installed]:
    """All modalities, by name; the classes are not imported."""
    return installed(GROUP, _OWN)


def print_installed() -> None:
    """Print a table of all modalities."""
    table = Table("name", "class", "distribution", box=SIMPLE_HEAD)
    for one in installed_modalities():
        table.add_row(*map(escape, one))
    Console().print(table)


def modality_named(name: str) -> Modality:
    """Return an installed modality with its default settings.

    Raises:
        UserError: no installed modality has the name, or several have; or it cannot be loaded.
    """
    everything = installed_modalities()
    found = [one for one in everything if one.name == name]
    if len(found) != 1:
        names = ", ".join(one.name for one in everything)
        raise UserError(
            f"{len(found) or 'no'} modalities are called {name!r}; installed are {names}. Give "
            "another name, or the class (class_path: package.module.Class); vlynx modalities says "
            "where each comes from"
        )
    modality: Modality = load_class(found[0], GROUP, Modality)()
    return modality
