"""VideoMME, MVBench and MLVU in the layouts that the Hugging Face hub has."""

import json
import sys

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from official_layouts import ABOUT_VIDEO, mlvu_row, mvbench, video_mme
from pyarrow.parquet import write_table

from datamodules.benchmarks import MLVU, MVBench, VideoMME
from datamodules.benchmarks.parquet import read_rows
from datamodules.benchmarks.records import read_records
from datamodules.libraries import import_library
from datamodules.modalities.high_frame_rate import HighFrameRate
from datamodules.samples import BadSample

MOST = 2**20
ROWS = [
    ABOUT_VIDEO | video_mme("801-1", videoID="xYz-_1"),
    ABOUT_VIDEO | video_mme("801-2", videoID="xYz-_1", options=["A. a", "B. b", "C. c", "D. d"]),
]


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_json(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_table_is_read_as_the_same_rows_in_json(tmp_path):
    write_parquet(tmp_path / "videomme" / "test-00000-of-00001.parquet", ROWS)
    rows = write_json(tmp_path / "rows.json", ROWS)
    table = tmp_path / "videomme" / "test-00000-of-00001.parquet"
    expected = VideoMME(rows).episodes("test")
    assert VideoMME(tmp_path).episodes("test") == VideoMME(table).episodes("test") == expected
    assert len(expected[0].questions) == 2


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "question": st.text(st.characters(exclude_categories=["Cs"])),
                "options": st.lists(st.text("ab"), max_size=3),
                "start": st.none() | st.floats(allow_nan=False),
            }
        ),
        min_size=1,
        max_size=250,
    )
)
def test_rows_are_those_that_were_written(tmp_path_factory, rows):
    path = write_parquet(tmp_path_factory.mktemp("table") / "a.parquet", rows)
    assert read_rows(path, MOST) == rows


def test_a_table_that_does_not_fit_is_refused(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [video_mme("1") | {"video_id": "7"}])
    with pytest.raises(BadSample, match=r"record 0 \(question_id '1'\): duration should be a text"):
        VideoMME(path).episodes("test")
    long = write_parquet(tmp_path / "long.parquet", [{"question": "a" * 1000}] * 500)
    assert long.stat().st_size < 5000
    with pytest.raises(BadSample, match="has too many bytes once decoded"):
        read_rows(long, 10_000)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com", b"", b"PAR1" * 20])
def test_a_file_that_is_not_a_table_is_named_with_its_beginning(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(BadSample, match="is not a parquet table that can be read") as caught:
        read_records(tmp_path / "a.parquet")
    assert f"begins with {content[:40]!r}" in caught.value.reason


def test_a_damaged_table_is_refused(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + bytes(60) + whole[100:])
    with pytest.raises(BadSample, match="is not a parquet table that can be read"):
        read_rows(path, MOST)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "a.parquet", ROWS)
    import_library.cache_clear()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pyarrow cannot be imported.*-e '\.\[parquet\]'"):
        VideoMME(path).episodes("test")


def located(root, episode):
    return HighFrameRate().locate(root, episode).path.relative_to(root).as_posix()


def test_videos_of_videomme_are_where_its_zips_put_them(tmp_path):
    write_parquet(tmp_path / "videomme" / "test-00000-of-00001.parquet", ROWS)
    put(tmp_path / "data" / "xYz-_1.mp4")
    (episode,) = VideoMME(tmp_path).episodes("test")
    assert located(tmp_path, episode) == "data/xYz-_1.mp4"
    assert located(tmp_path / "data", episode) == "xYz-_1.mp4"


@pytest.mark.parametrize(
    "path",
    [
        "video/clevrer/video_validation/video_1.mp4",
        "video/data0613/clevrer/video_validation/video_1.mp4",
        "clevrer/video_validation/video_1.mp4",  # of the revision "video"
    ],
)
def test_mvbench_is_read_from_the_folder_of_its_download(tmp_path, path):
    write_json(tmp_path / "json" / "moving_count.json", [mvbench("video_1.mp4")])
    put(tmp_path / path)
    (episode,) = MVBench(tmp_path, tasks=["moving_count"]).episodes("test")
    assert located(tmp_path, episode) == path


@pytest.mark.parametrize("inner", ["", "MLVU/"])
def test_mlvu_is_read_from_the_folder_of_its_download(tmp_path, inner):
    write_json(tmp_path / f"{inner}json/4_count.json", [mvbench("count_1.mp4")])
    put(tmp_path / f"{inner}video/4_count/count_1.mp4")
    (episode,) = MLVU(tmp_path, tasks=["count"]).episodes("test")
    assert located(tmp_path, episode) == f"{inner}video/4_count/count_1.mp4"


LISTED = [
    "What happens?\n(A) It falls.\n(B) It stands.\n(C) It spins.",
    "Question: What happens?\nOptions:\n(A) It falls.\n(B) It stands.\n(C) It spins.",
    "What happens?\nA. It falls.\nB. It stands.\nC. It spins.",
    "What happens?",
]


@pytest.mark.parametrize("question", LISTED)
@pytest.mark.parametrize("answer", ["C", "It spins."])
def test_lmms_evals_table_asks_what_mlvu_asks(tmp_path, question, answer):
    rows = [mlvu_row(task, f"{task}.mp4") for task in ("count", "ego", "count")]
    rows[2] |= {"video_name": "z.mp4", "question": question, "answer": answer}
    write_parquet(tmp_path / "mlvu" / "test-00000-of-00001.parquet", rows)
    official = write_json(tmp_path / "official" / "4_count.json", [mvbench("count.mp4")] * 2).parent
    asked = [e.questions[0] for e in MLVU(tmp_path, tasks=["count"]).episodes("test")]
    assert asked == list(MLVU(official, tasks=["count"]).episodes("test")[0].questions)
    assert [e.media for e in MLVU(tmp_path).episodes("test")][2] == {"video": "z.mp4"}


def test_lmms_evals_table_has_no_generation_tasks(tmp_path):
    write_parquet(tmp_path / "mlvu" / "test-00000-of-00001.parquet", [mlvu_row("ego", "a.mp4")])
    with pytest.raises(BadSample, match=r"9_summary\.json: is missing"):
        MLVU(tmp_path, tasks=["summary"]).episodes("test")


def test_a_row_of_an_unknown_task_is_refused(tmp_path):
    write_parquet(tmp_path / "mlvu" / "test-00000-of-00001.parquet", [mlvu_row("sport", "a.mp4")])
    with pytest.raises(BadSample, match="task_type should be one of plotQA, needle"):
        MLVU(tmp_path).episodes("test")


def test_all_missing_files_are_counted(tmp_path):
    write_json(tmp_path / "json" / "moving_count.json", [mvbench()])
    with pytest.raises(BadSample, match=r"json/action_sequence\.json: is missing, with 18 more"):
        MVBench(tmp_path).episodes("test")
