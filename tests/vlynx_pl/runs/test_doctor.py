import ctypes.util
import subprocess
import sys

import pytest

from vlynx_pl.runs import doctor


def test_a_complete_installation_passes(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "PACKAGES", ("rich", "numpy"))
    with pytest.raises(SystemExit) as stop:
        doctor.main()
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and "Everything is in place." in printed
    assert "ok      import rich: " in printed


def test_what_is_missing_is_named_with_one_remedy_each(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "PACKAGES", ("rich", "no_such_module", "nor_this"))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        doctor.main()
    printed = capsys.readouterr().out
    assert stop.value.code == 1
    assert "MISSING import no_such_module: ModuleNotFoundError" in printed
    assert printed.count("make install") == 1
    assert printed.count("apt-get install libusb-1.0-0") == 1


def test_missing_system_packages_alone_are_for_the_makefile(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["doctor.py", "--system-packages"])
    monkeypatch.setattr(ctypes.util, "find_library", {"GL": "libGL.so.1", "X11": "x"}.get)
    doctor.main()
    assert capsys.readouterr().out == "libusb-1.0-0 libegl1\n"


def test_it_needs_no_package():
    """It must run before anything is installed."""
    code = f"import runpy; runpy.run_path({doctor.__file__!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
