"""Classes that other packages add through entry points, beside our own."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from vlynx_pl.io.errors import UserError


class Installed(NamedTuple):
    """A class that can be chosen by its name."""

    name: str
    class_path: str  # "package.module:Class"
    distribution: str


def installed(group: str, own: Mapping[str, str]) -> list[Installed]:
    """All classes of an entry-point group, by name; they are not imported.

    Args:
        group: such as ``vlynx.modalities``.
        own: name → class path of our own, which need no entry point.
    """
    found = {Installed(name, class_path, "vlynx") for name, class_path in own.items()}
    for point in entry_points(group=group):
        found.add(Installed(point.name, point.value, point.dist.name if point.dist else "?"))
    return sorted(found)


def load_class(one: Installed, group: str, base: type) -> Any:
    """Import a class.

    Raises:
        UserError: it cannot be imported, or is not a ``base``.
    """
    kind = group.removeprefix("vlynx.")
    try:
        loaded: object = EntryPoint(one.name, one.class_path, group).load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{one.name!r} in {kind} of {one.distribution} cannot be loaded from {one.class_path} "
            f"({error}). Repair or remove that package"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise UserError(
            f"{one.class_path} of {one.distribution} is not a {base.__name__}; remove that package"
        )
    return loaded
