"""Untrusted files: nothing in them is executed, and each bad one is a single message.

Adapters, guidance, caches, checkpoints, backbones and annotations are data. A configuration names
classes, also those of the current folder: a class of the wrong kind is never called, although its
module is imported.
"""

import io
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch

DEEP = b"[" * 200_000
LONG_HEADERS = [
    pytest.param(struct.pack("<Q", size) + b"{}", id=f"header of {size}")
    for size in (2**63 + 1, 99_000_000)
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
    """Makes the marker folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture(autouse=True)
def marker(tmp_path) -> Path:
    """A folder that must not exist at the end of any test."""
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
    """Return the bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(what, buffer, **options)
    return buffer.getvalue()


@pytest.fixture
def vlynx(vlynx, monkeypatch):
    """The command line, whose messages are not wrapped."""
    monkeypatch.setenv("COLUMNS", "300")
    return vlynx
