"""Objects from configurations, with one clear message for whatever is wrong with them."""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jsonargparse import SUPPRESS, ArgumentError, ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException

from datamodules.base import ModalityDataModule
from vlynx_pl.io.errors import PARSE_ERRORS, UserError, root_cause, unwrap_user_error
from vlynx_pl.io.files import readable
from vlynx_pl.io.settings_files import check_settings_files


def instantiate(kind: Any, saved: Mapping[str, Any], **linked: object) -> Any:
    """Make an object from a saved configuration, as ``vlynx fit`` does.

    Args:
        kind: its base class.
        saved: its ``class_path`` and ``init_args``.
        linked: further arguments, which ``vlynx fit`` takes from other objects.

    Raises:
        UserError: the configuration cannot be used.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=kind, required=True)
    part = {**saved, "init_args": saved["init_args"] | linked}
    with explain_errors("the run's config.yaml"):
        return parser.instantiate_classes(parser.parse_object({"part": part})).part


def data_module(arguments: list[str]) -> ModalityDataModule:
    """Make the data module that a run with these arguments would use, and nothing else."""
    prepare(arguments)
    parser = ArgumentParser(prog="vlynx check", description="Options of the data module.")
    parser.add_argument("--config", action="config", help="a configuration of a run, or of data")
    parser.add_subclass_arguments(ModalityDataModule, "data", required=True)
    for part in ("backbone", "model", "trainer", "checkpoint"):  # parts of a run that are ignored
        parser.add_argument(f"--{part}", type=dict[str, Any] | None, help=SUPPRESS)
    parser.add_argument("--run", type=str, help=SUPPRESS)
    with explain_errors("these settings"):
        made: ModalityDataModule = parser.instantiate_classes(parser.parse_args(arguments)).data
    return made


def prepare(arguments: Iterable[str]) -> None:
    """Check a command line and its YAML files before a parser does, and hide noise of libraries.

    Raises:
        UserError: a file cannot be used, or a name is not UTF-8.
    """
    for argument in arguments:
        if argument != (shown := readable(argument)):
            raise UserError(
                f"{shown}: the name is not UTF-8, as a configuration must be; rename the folder, "
                "or make a link to it with another name (ln -s) and give that"
            )
    check_settings_files(arguments)
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # the frozen backbone
    warnings.filterwarnings("ignore", ".*resuming from a checkpoint that ended before the epoch")
    warnings.filterwarnings("ignore", "The `srun` command is available")
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated")  # lightning's own, torch >= 2.13
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )


@contextmanager
def explain_errors(what: str) -> Iterator[None]:
    """Raise what a library has against settings as a UserError, without a parser's guesses."""
    try:
        with unwrap_user_error():
            yield
    except UserError:
        raise
    except (ArgumentError, MisconfigurationException, RuntimeError, *PARSE_ERRORS) as error:
        reason = str(root_cause(error)).strip(" .")
        if reason.startswith("Expected a"):  # the last of a parser's guesses; it names all others
            reason = str(error)
        raise UserError(f"{what} cannot be used: {reason}") from error
