"""What vlynx check says about partial copies of benchmarks, which docs/benchmarks.md shows."""

import json
import re
import zipfile

import numpy as np
import pyarrow
import pytest
from pyarrow.parquet import write_table

from datamodules.benchmarks import MLVU, MVBench
from experiments.toyworld.video_files import write_video
from tests.conftest import REPOSITORY
from tests.datamodules.benchmarks.official_layouts import ABOUT_VIDEO, mvbench, video_mme

TASKS = {
    path.stem: path
    for stage in ("tune", "eval")
    for path in (REPOSITORY / "experiments" / stage).glob("*.yaml")
}
PAGE = (REPOSITORY / "docs" / "benchmarks.md").read_text()


def film(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.zeros((40, 32, 48, 3), np.uint8), 8)


def videomme(folder):
    rows = [ABOUT_VIDEO | video_mme(f"{name}-1", videoID=name) for name in "abc"]
    (folder / "videomme").mkdir(parents=True)
    table = folder / "videomme" / "test-00000-of-00001.parquet"
    write_table(pyarrow.Table.from_pylist(rows), table)
    film(folder / "data" / "a.mp4")
    for number, name in enumerate("abc", 1):
        with zipfile.ZipFile(folder / f"videos_chunked_0{number}.zip", "w") as archive:
            archive.write(folder / "data" / "a.mp4", f"data/{name}.mp4")
    (folder / "videos_chunked_03.zip").write_bytes(b"PK")


def one_question_each(benchmark, places, videos, left_out):
    """One question per task, about a video of its own, without those of a folder."""
    for number, path in enumerate(benchmark.files("test")):
        file = benchmark.annotations / places / path.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([mvbench(f"{number}.mp4")]))
    for episode in benchmark.episodes("test"):
        [name] = episode.media.values()
        if left_out not in name:
            film(benchmark.annotations / videos / name)


COPIES = {
    "videomme": videomme,
    "mvbench": lambda folder: one_question_each(MVBench(folder), "json", "video", "nturgbd"),
    "mlvu": lambda folder: one_question_each(MLVU(folder), "MLVU/json", "MLVU/video", "5_order"),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_partial_copy(name, vlynx, tmp_path, monkeypatch):
    COPIES[name](tmp_path / "data" / name)
    monkeypatch.chdir(tmp_path)
    small = "--data.num_workers=0", "--data.frame_size=[32,32]"
    code, printed = vlynx("check", "--config", TASKS[name], *small)
    shown = re.search(rf"<!-- .*/{name}\.yaml -->\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert code == 1
    lines = {" ".join(line.split()) for line in printed.splitlines()}
    for line in shown.group(1).splitlines():
        assert " ".join(line.split()) in lines, printed


def test_what_is_unpacked_is_no_longer_missing(vlynx, tmp_path):
    root = tmp_path / "videomme"
    videomme(root)
    (root / "videos_chunked_03.zip").unlink()
    code, printed = vlynx("prepare", "unpack", root)
    assert code == 0 and "videos_chunked_02.zip: 1 unpacked" in printed.replace("\n", "")
    at = f"--data.root={root}", f"--data.benchmark.init_args.annotations={root}"
    small = "--data.num_workers=0", "--data.frame_size=[32,32]", "--coverage=0.6"
    code, printed = vlynx("check", "--config", TASKS["videomme"], *at, *small)
    assert code == 0 and "not unpacked from" not in printed
    assert ["test", "3", "2", "2"] in [line.split() for line in printed.splitlines()]


@pytest.mark.parametrize("name", TASKS)
def test_a_copy_without_annotations(name, vlynx, tmp_path):
    empty = f"--data.root={tmp_path}", f"--data.benchmark.init_args.annotations={tmp_path}/{name}"
    code, printed = vlynx("check", "--config", TASKS[name], *empty)
    assert code == 1
    assert re.search(r"([^/]*: is missing.*? from it)\.", printed).group(1) in PAGE.replace("`", "")
