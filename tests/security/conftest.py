"""Untrusted files: nothing in them is executed, and each that is bad is one message.

What is in an adapter, a guidance, a cache, a checkpoint, a backbone or an annotation is data. The
configuration of a run names classes, those of the folder where the command is run included: what is
none of the right kind is not called, but its module is imported.
"""

import io
import os
import pickle
import struct
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from vlynx_pl.commands import cli

DEEP = b"[" * 200_000
LONG_HEADERS = [
    pytest.param(struct.pack("<Q", size) + b"{}", id=f"header of {size}")
    for size in (2**63 + 1, 2**40, 99_000_000)
]
ALIGNED = {
    "backbone": {
        "class_path": "vlynx_pl.backbones.load_backbone",
        "init_args": {"path": "experiments/miniature", "dtype": "float32"},
    },
    "model": {
        "class_path": "vlynx_pl.alignment.InterfaceAlignment",
        "init_args": {"modality": "3d"},
    },
    "data": {"class_path": "datamodules.DepthDataModule", "init_args": {"root": "nowhere"}},
}


class PicklePayload:
    """Leaves a marker where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture(autouse=True)
def marker(tmp_path) -> Path:
    """What must not be there at the end of any test."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "something was executed"


@pytest.fixture
def pickle_payload(marker) -> PicklePayload:
    return PicklePayload(marker)


@pytest.fixture
def pickled(pickle_payload) -> bytes:
    return pickle.dumps(pickle_payload)


def saved(what: object, **options: object) -> bytes:
    """As torch saves it."""
    buffer = io.BytesIO()
    torch.save(what, buffer, **options)
    return buffer.getvalue()


@pytest.fixture
def vlynx(monkeypatch, capsys):
    """Runs the command line in this process: (arguments) → (exit code, output and errors)."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vlynx", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out + captured.err

    return run
