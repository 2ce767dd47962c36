"""Import of heavy or fragile libraries, which fails with one clear message."""

from functools import cache
from importlib import import_module
from typing import Any


@cache
def import_library(name: str) -> Any:
    """Import a library that only some commands need.

    Raises:
        ImportError: it is missing or broken; the message names the remedy.
    """
    try:
        return import_module(name)
    except (ImportError, OSError) as error:
        raise ImportError(
            f"{name} cannot be imported ({error}). `make doctor` names what is missing, of Python "
            "or of the system, and the command that installs it"
        ) from error
