"""Invented annotation files, written and read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from official_layouts import OFFICIAL, Official

from datamodules.samples import Episode, Split

Read = Callable[..., list[Episode]]


@pytest.fixture(params=OFFICIAL)
def official(request: pytest.FixtureRequest) -> Official:
    """Each official layout in turn."""
    return OFFICIAL[request.param]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Episodes of one file: (reader, split, name, content, **options) -> list[Episode]."""

    def episodes(reader: Any, split: Split, name: str, content: Any, **options: Any) -> Any:
        return Official(reader, split, {name: content}, options).open(tmp_path).episodes(split)

    return episodes
