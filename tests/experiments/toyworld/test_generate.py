"""Toy worlds are the same bytes for the same arguments, complete or not there, and theirs alone."""

import errno
import json
from pathlib import Path

import pytest

from datamodules.samples import BadSample
from experiments.toyworld import generate_toyworld, rooms
from experiments.toyworld.__main__ import main
from experiments.toyworld.files import write_scene
from experiments.toyworld.scene import Scene
from experiments.toyworld.worlds import WORLDS

SCENES = 9


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small 3d world made in this process."""
    out = tmp_path_factory.mktemp("toy") / "3d"
    assert generate_toyworld(out, "3d", SCENES, seed=3, workers=1)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", [pytest.param("3d", marks=pytest.mark.slow), "audio"])
def test_two_processes_write_the_same_bytes_as_one(name: str, tmp_path: Path) -> None:
    for workers in (1, 2):  # new processes take seconds to import torch
        generate_toyworld(tmp_path / str(workers), name, SCENES, seed=3, workers=workers)
    one, two = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert one.keys() == two.keys()
    assert [path for path in one if one[path] != two[path]] == []


def test_the_manifest_tells_the_arguments(world: Path) -> None:
    assert json.loads((world / "toyworld.json").read_text()) == {
        "format": "vlynx-toyworld-2", "world": "3d", "scenes": SCENES, "seed": 3, "frames": 4,
        "size": 64,
    }  # fmt: skip


def test_a_complete_world_is_left_alone(world: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in world.rglob("*")}
    assert not generate_toyworld(world, "3d", SCENES, seed=3)
    assert {p: p.stat().st_mtime_ns for p in world.rglob("*")} == before


@pytest.mark.parametrize(("name", "seed"), [("3d", 4), ("audio", 3)])
def test_another_world_is_not_overwritten(world: Path, name: str, seed: int) -> None:
    with pytest.raises(BadSample, match=r"another toy world.*another --out"):
        generate_toyworld(world, name, SCENES, seed=seed)


def test_a_strange_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadSample, match="no toy world"):
        generate_toyworld(tmp_path, scenes=3)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_too_few_scenes_and_unknown_worlds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scenes=2"):
        generate_toyworld(tmp_path / "w", scenes=2)
    with pytest.raises(ValueError, match=r"'smell' is none of 3d, audio"):
        generate_toyworld(tmp_path / "w", "smell")
    assert not (tmp_path / "w").exists()


def test_after_a_full_disk_the_world_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(scene: Scene, folder: Path, size: int) -> None:
        if scene.index == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_scene(scene, folder, size)

    out = tmp_path / "w"
    monkeypatch.setattr(rooms, "write_scene", full)
    with pytest.raises(BadSample, match=r"w: could not be written .No space left"):
        generate_toyworld(out, scenes=4, workers=1)
    assert not (out / "toyworld.json").exists()
    monkeypatch.undo()
    assert generate_toyworld(out, scenes=4, workers=1)
    assert (out / "toyworld.json").exists()
    assert len(list((out / "scans").iterdir())) == 4


def test_worlds_go_by_their_names() -> None:
    assert {name: world.name for name, world in WORLDS.items()} == {name: name for name in WORLDS}


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["toyworld", *map(str, words)])
    main()


def test_the_command_makes_a_world_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w"
    command(monkeypatch, "3d", "--out", out, "--scenes", 3, "--seed", 4, "--workers", 1)
    assert json.loads((out / "toyworld.json").read_text())["seed"] == 4
    with pytest.raises(SystemExit, match=r"Error: .*holds another toy world"):
        command(monkeypatch, "3d", "--out", out, "--scenes", 3)
    for option, words in (("--scenes=2", "give 3 or more"), ("--workers=0", "give 1 or more")):
        with pytest.raises(SystemExit, match="2"):
            command(monkeypatch, "3d", "--out", out, option)
        assert words in capsys.readouterr().err
