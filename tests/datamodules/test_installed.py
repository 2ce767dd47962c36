"""Modalities of installed packages are found by entry point, and listed with their origin."""

import sys

import pytest

from datamodules import Depth, ModalityDataModule
from datamodules.modalities.installed import installed_modalities, modality_named
from vlynx_pl.commands import cli
from vlynx_pl.io.errors import UserError

RADAR = """
from datamodules.modalities.modality import Modality

class Radar(Modality):
    name = "radar"
    def find(self, root): return {}
    def clips(self, source, spec): return []
    reference_clips = clips
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution: (its name, lines of entry points)."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "radar_of_ours.py").write_text(RADAR)

    def install(distribution: str, *lines: str) -> None:
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\n")
        (folder / "entry_points.txt").write_text("\n".join(["[vlynx.modalities]", *lines]))

    return install


def test_our_modalities_are_always_installed():
    ours = {one.name for one in installed_modalities() if one.distribution == "vlynx"}
    assert ours == {"3d", "audio", "ego", "highfps", "events", "imu", "thermal"}
    for name in ours:
        assert modality_named(name).name == name
    assert modality_named("3d") == Depth()


def test_a_package_can_add_a_modality(install, tmp_path, monkeypatch, capsys):
    install("radar", "radar = radar_of_ours:Radar")
    assert ("radar", "radar_of_ours:Radar", "radar") in installed_modalities()
    [modality] = ModalityDataModule(tmp_path, ["radar"]).modalities
    assert type(modality).__name__ == "Radar"
    monkeypatch.setattr(sys, "argv", ["vlynx", "modalities"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["radar", "radar_of_ours:Radar", "radar"] in rows
    assert ["audio", "datamodules.modalities.audio:Audio", "vlynx"] in rows


@pytest.mark.parametrize(
    ("line", "name", "message"),
    [
        (
            "radar = radar_of_ours:Rador",
            "radar",
            r"'radar' in modalities of radar cannot .*Rador",
        ),
        ("radar = radar_of_yours:Radar", "radar", r"of radar cannot be loaded .*radar_of_yours"),
        ("radar = pathlib:Path", "radar", "pathlib:Path of radar is not a Modality"),
        ("audio = radar_of_ours:Radar", "audio", "2 modalities are called 'audio'"),
        ("radar = radar_of_ours:Radar", "rader", "no modalities are called 'rader'.*, radar, th"),
    ],
)
def test_a_name_that_cannot_be_loaded_is_refused(install, line, name, message):
    install("radar", line)
    with pytest.raises(UserError, match=message):
        modality_named(name)
