"""Rows of a parquet table, the format in which the Hugging Face hub has annotations."""

from pathlib import Path
from typing import Any, Final

from datamodules.libraries import import_library
from datamodules.samples import BadSample

_ROWS: Final = 100  # that are decoded at once, so that a small file cannot fill the memory
_REMEDY: Final = "Download the official file again"


def read_rows(path: Path, most: int) -> list[dict[str, Any]]:
    """Read a table as a list of objects, as JSON would hold it.

    Args:
        path: the table.
        most: bytes that its decoded rows may take.

    Raises:
        BadSample: it is damaged, or too large once decoded.
        ImportError: pyarrow is missing.
    """
    pyarrow = import_library("pyarrow", extra="parquet")
    parquet = import_library("pyarrow.parquet", extra="parquet")
    rows: list[dict[str, Any]] = []
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(_ROWS):
                most -= batch.nbytes
                if most < 0:
                    raise BadSample(path, "has too many bytes once decoded", _REMEDY)
                rows += batch.to_pylist()
    except BadSample:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        # The beginning tells a web page or a git-lfs pointer from a damaged file.
        reason = f"is not a parquet table that can be read ({error}); it begins with {_start(path)}"
        raise BadSample(path, reason, _REMEDY) from error
    return rows


def _start(path: Path) -> str:
    with path.open("rb") as file:
        return repr(file.read(40))
