"""YAML files of settings, checked with messages that give file and line."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import yaml
from typing_extensions import override

from vlynx_pl.io.errors import UserError

_OPTIONS: Final = ("--config", "-c")
_SUFFIXES: Final = (".yaml", ".yml")


class UniqueKeys(yaml.SafeLoader):
    """Loads plain data; a repeated key is an error, where YAML would silently use the last."""

    @override
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                before = first.setdefault((key.tag, key.value), key)
                if before is not key:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} is in line {before.start_mark.line + 1} of "
                        "the same mapping already, and one of them would be lost; join them",
                        problem_mark=key.start_mark,
                    )
        return node


def check_settings_files(arguments: Iterable[str]) -> None:
    """Check the YAML files that a command line names, before a parser reads them.

    Raises:
        UserError: one cannot be read, is not UTF-8 or not YAML, or has a key twice.
    """
    for path in _files(arguments):
        try:
            with path.open(encoding="utf-8-sig") as file:
                node = yaml.compose(file, UniqueKeys)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
        except yaml.MarkedYAMLError as error:
            line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
            reason = ", ".join(filter(None, (error.context, error.problem)))
            raise UserError(f"{path}{line}: {reason}") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise UserError(f"{path} is not YAML: {error}") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path} contains no settings, which are lines such as `model:`")


def _files(arguments: Iterable[str]) -> Iterator[Path]:
    """Existing files that follow ``--config`` or have the suffix of a YAML file."""
    for before, argument in pairwise(["", *arguments]):
        option, equals, value = argument.partition("=")
        if not equals:
            option, value = before, argument
        path = Path(value)
        if (option in _OPTIONS or path.suffix in _SUFFIXES) and path.exists():
            yield path
