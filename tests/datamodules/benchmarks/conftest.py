"""Invented annotation files, written and read."""

import pytest
from official_layouts import Official


@pytest.fixture
def read(tmp_path):
    """Episodes of one file: (reader, split, name, content, **options) -> list[Episode]."""

    def episodes(reader, split, name, content, **options):
        return Official(reader, split, {name: content}, options).open(tmp_path).episodes(split)

    return episodes
