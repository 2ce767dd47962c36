"""The installed modalities: our own, and those of other packages.

A package adds one with an entry point: ``[project.entry-points."vlynx.modalities"]`` and a line
``radar = "package.module:Radar"``.
"""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.modalities.modality import Modality
from vlynx_pl.io.errors import UserError

GROUP: Final = "vlynx.modalities"
_OWN: Final[Mapping[str, str]] = {
    "3d": "datamodules.modalities.depth:Depth",
    "audio": "datamodules.modalities.audio:Audio",
    "ego": "datamodules.modalities.ego:Ego",
    "highfps": "datamodules.modalities.high_frame_rate:HighFrameRate",
}


class Installed(NamedTuple):
    """A modality that can be named in a configuration."""

    name: str
    class_path: str  # "package.module:Class"
    distribution: str


def installed() -> list[Installed]:
    """All modalities, by name; the classes are not imported."""
    found = {Installed(name, class_path, "vlynx") for name, class_path in _OWN.items()}
    for point in entry_points(group=GROUP):
        found.add(Installed(point.name, point.value, point.dist.name if point.dist else "?"))
    return sorted(found)


def print_installed() -> None:
    """Print a table of all modalities."""
    table = Table("name", "class", "distribution", box=SIMPLE_HEAD)
    for one in installed():
        table.add_row(*map(escape, one))
    Console().print(table)


def modality_named(name: str) -> Modality:
    """Return an installed modality with its default settings.

    Raises:
        UserError: no installed modality has the name, or several have; or it cannot be loaded.
    """
    everything = installed()
    found = [one for one in everything if one.name == name]
    if len(found) != 1:
        names = ", ".join(one.name for one in everything)
        raise UserError(
            f"{len(found) or 'no'} modalities are called {name!r}; installed are {names}. Give "
            "another name, or the class (class_path: package.module.Class); vlynx modalities says "
            "where each comes from"
        )
    [(_, class_path, distribution)] = found
    try:
        kind = EntryPoint(name, class_path, GROUP).load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"modality {name!r} of {distribution} cannot be loaded from {class_path} ({error}). "
            "Repair or remove that package"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Modality)):
        raise UserError(f"{class_path} of {distribution} is not a Modality; remove that package")
    return kind()
