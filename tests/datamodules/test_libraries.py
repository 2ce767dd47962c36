import sys

import pytest

from datamodules.libraries import import_library


def test_a_missing_library_is_named_with_its_remedy():
    with pytest.raises(ImportError, match=r"no_such_library cannot be imported.*make doctor"):
        import_library("no_such_library")


def test_a_missing_optional_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tabulate", None)
    with pytest.raises(ImportError, match=r"tabulate cannot be imported.*-e '\.\[parquet\]'"):
        import_library("tabulate", extra="parquet")
