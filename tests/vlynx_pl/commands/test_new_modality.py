"""`vlynx new-modality` writes a package that installs, passes its own test, and can be aligned."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from vlynx_pl.commands.new_modality import new_modality

NAME = "touch_grid"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of a new package, and the folder that it is installed in."""
    folder, site = tmp_path_factory.mktemp("new") / "package", tmp_path_factory.mktemp("site")
    new_modality(NAME, folder)
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet"]
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run([*pip, *offline, "--target", site, folder], check=True)
    return folder, site


def test_its_own_test_passes(package):
    folder, site = package
    paths = os.pathsep.join([str(site), str(REPOSITORY)])
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0 and "4 passed" in ran.stdout, ran.stdout + ran.stderr


def test_it_is_listed_and_aligned(package, tmp_path, vlynx, monkeypatch):
    folder, site = package
    monkeypatch.syspath_prepend(site)
    subprocess.run([sys.executable, folder / "toy_data.py", tmp_path / "data"], check=True)
    code, printed = vlynx("modalities")
    assert code == 0 and "vlynx_touch_grid:TouchGridModality" in printed
    code, printed = vlynx(
        "fit",
        f"--config={REPOSITORY}/experiments/backbones/miniature.yaml",
        f"--config={folder}/{NAME}.yaml",
        f"--config={REPOSITORY}/experiments/align/backbones/miniature.yaml",
        f"--data.root={tmp_path}/data",
        "--data.num_workers=0",
        f"--run={tmp_path}/run",
    )
    assert code == 0, printed
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["after"]["stat"] < report["before"]["stat"]
    assert (tmp_path / "run" / "adapters" / f"vision-{NAME}").is_dir()


def test_nothing_of_the_template_is_left(package):
    folder, _ = package
    assert {path.name for path in folder.glob("*.*")} >= {
        "README.md", "pyproject.toml", "toy_data.py",
        f"{NAME}.yaml", f"test_{NAME}.py", f"vlynx_{NAME}.py",
    }  # fmt: skip
    for path in folder.glob("*.*"):
        assert path.is_dir() or "my_signal" not in path.read_text().lower(), path


@pytest.mark.parametrize("name", ["Radar", "3d", "../radar", "a-b", "", "null", "radär", "on"])
def test_a_name_that_python_or_yaml_reads_otherwise_is_refused(vlynx, name, tmp_path):
    code, printed = vlynx("new-modality", f"--out={tmp_path}/new", "--", name)
    assert code == 1 and "cannot be the name of a modality; give lower-case letters" in printed
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["video", "thermal"])
def test_a_name_that_is_taken_is_refused(vlynx, name, tmp_path):
    code, printed = vlynx("new-modality", name, f"--out={tmp_path}/new")
    assert code == 1 and f"'{name}' is taken, as are 3d, audio" in printed
    assert not (tmp_path / "new").exists()


def test_an_existing_folder_is_not_touched(vlynx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vlynx-radar").mkdir()
    code, printed = vlynx("new-modality", "radar")
    assert code == 1 and "vlynx-radar exists; give a new folder with --out" in printed
    assert not list((tmp_path / "vlynx-radar").iterdir())
