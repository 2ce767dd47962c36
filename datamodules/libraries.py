"""Import of heavy or fragile libraries, which fails with one clear message."""

from functools import cache
from importlib import import_module
from typing import Any


@cache
def import_library(name: str, extra: str = "") -> Any:
    """Import a library that only some commands need.

    Args:
        name: of the module.
        extra: the extra of this package that brings it, if it is optional.

    Raises:
        ImportError: it is missing or broken; the message names the remedy.
    """
    try:
        return import_module(name)
    except (ImportError, OSError) as error:
        remedy = (
            f"Install it with pip install -c constraints.txt -e '.[{extra}]'"
            if extra
            else "`make doctor` names what is missing, of Python or of the system, and the command "
            "that installs it"
        )
        raise ImportError(f"{name} cannot be imported ({error}). {remedy}") from error
