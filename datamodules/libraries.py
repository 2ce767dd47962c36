"""Heavy or fragile libraries are imported where they are used, and fail with one clear message."""

from functools import cache
from importlib import import_module
from typing import Any


@cache
def import_library(name: str) -> Any:
    """Import a library that a wing must be able to do without.

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
