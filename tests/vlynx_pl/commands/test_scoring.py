import json
import re

import pytest

from tests.conftest import replace_meteor
from vlynx_pl.commands.scoring import read_predictions, score
from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics import captions


def rows(path, *predictions):
    path.write_text("".join(json.dumps(row) + "\n" for row in predictions))
    return path


def said(**predictions):
    return [{"id": name, "prediction": text} for name, text in predictions.items()]


@pytest.fixture
def predictions(tmp_path):
    return lambda *found: rows(tmp_path / "predictions.jsonl", *found)


@pytest.fixture
def avut(tmp_path):
    """Three questions of the test split; their answers are A, B and C."""
    record = {"video_type": "vlog", "task_type": "Audio OCR Matching", "question": "Q?"}
    options = {f"option_{letter}": f"text {letter}" for letter in "ABCD"}
    path = tmp_path / "annotations" / "AV_Human_data.json"
    path.parent.mkdir()
    found = [
        record | options | {"QA_id": n, "answer": letter, "video_path": f"data/{n}.mp4"}
        for n, letter in enumerate("ABC", 1)
    ]
    path.write_text(json.dumps(found))
    return path


def test_a_file_of_predictions_gives_figures_and_a_table(avut, predictions, capsys):
    figures = score("AVUT", predictions(*said(**{"1": "A", "2": "C", "3": "C"})), avut)
    assert figures["avut/strict"] == pytest.approx(200 / 3)
    assert figures["avut/strict/task/Audio_OCR_Matching"] == pytest.approx(200 / 3)
    printed = capsys.readouterr().out
    assert "66.67" in printed and "avut/n_total" in printed and "predictions.jsonl" in printed


def test_missing_and_empty_predictions_are_failures_and_wrong(avut, predictions):
    figures = score("AVUT", predictions(*said(**{"1": "A", "2": None})), avut.parent)
    assert [figures[f"avut/n_{n}"] for n in ("total", "answered", "failed")] == [3, 1, 2]
    assert figures["avut/strict"] == pytest.approx(100 / 3)
    assert figures["avut/strict_answered"] == 100


def test_another_figure_may_be_the_headline(avut, predictions, capsys):
    path = predictions(*said(**{"1": "A"}))
    score("AVUT", path, avut, protocol="avut/strict_answered")
    printed = [line for line in capsys.readouterr().out.splitlines() if "avut/" in line]
    assert "avut/strict_answered" in printed[0] and "100.00" in printed[0]
    with pytest.raises(UserError, match=r"--protocol avut/official: use one of avut/strict"):
        score("AVUT", path, avut, protocol="avut/official")


@pytest.fixture
def two(tmp_path):
    """Two files of predictions by name."""
    return lambda **files: [rows(tmp_path / f"{name}.jsonl", *files[name]) for name in files]


def test_predictions_against_others_are_subtracted_question_by_question(avut, two, capsys):
    mine, other = two(
        mine=said(**{"1": "A", "2": "B", "3": "C"}), other=said(**{"1": "A", "2": "C", "3": "A"})
    )
    score("AVUT", mine, avut, against=other, protocol="avut/strict_answered")
    _, table = capsys.readouterr().out.split("minus other.jsonl")
    printed = [line.split() for line in table.splitlines() if "avut/" in line]
    assert printed[0][1] == "avut/strict_answered"
    shown = dict(zip(("this", "other", "difference"), printed[1][3:9:2], strict=True))
    assert printed[1][1] == "avut/strict"
    assert shown == {"this": "100.00", "other": "33.33", "difference": "+66.67"}
    assert "[0.00, 100.00]" in " ".join(printed[1])
    score("AVUT", mine, avut, against=mine)
    assert "+0.00 │ [0.00, 0.00]" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("swapped", [False, True])
def test_files_that_answer_different_questions_are_not_compared(avut, two, swapped):
    files = two(mine=said(**{"1": "A", "2": "B"}), other=said(**{"1": "A"}))
    mine, other = files[::-1] if swapped else files
    with pytest.raises(UserError, match=r"other\.jsonl does not answer 1 of the 2 .*'2'"):
        score("AVUT", mine, avut, against=other)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([*said(a="x"), *said(a="y")], r"predictions\.jsonl: .*same id 'a'"),
        ([{"id": "a"}], "prediction should be a text, or null"),
        ([["a", "x"]], "should be an object"),
        ([], "contains no prediction"),
    ],
)
def test_predictions_that_cannot_be_used(predictions, found, message):
    with pytest.raises(UserError, match=message):
        read_predictions(predictions(*found))


def test_predictions_of_another_benchmark_are_refused_though_their_ids_fit(avut, predictions):
    path = predictions({"id": "1", "prediction": "A", "benchmark": "AVQA"})
    with pytest.raises(UserError, match="belongs to the benchmark 'AVQA'; give --benchmark AVQA"):
        score("AVUT", path, avut)
    path = predictions({"id": "1", "prediction": "A", "benchmark": "AVUT"})
    assert score("AVUT", path, avut)["avut/n_answered"] == 1


def test_references_of_another_split_name_both_ids(avut, predictions):
    path = predictions(*said(**{"1": "A", "77": "B", "99": "B"}))
    with pytest.raises(UserError, match=r"2 of 3 ids are not in .*Human.*'77'.*such as '1'.*split"):
        score("AVUT", path, avut)


def test_a_file_that_the_benchmark_does_not_read(avut, predictions):
    other = avut.with_name("mine.json")
    other.write_text(avut.read_text())
    with pytest.raises(UserError, match=r"mine\.json: AVUT does not read it.*AV_Human_data\.json"):
        score("AVUT", predictions(*said(a="x")), other)


def test_a_folder_of_several_splits_needs_its_name(avut, predictions):
    avut.with_name("AV_Gemini_data.json").write_text(avut.read_text())
    path = predictions(*said(**{"1": "A"}))
    with pytest.raises(UserError, match="has the splits train, test; choose one with --split"):
        score("AVUT", path, avut.parent)
    assert score("AVUT", path, avut.parent, split="test")["avut/n_total"] == 3
    with pytest.raises(UserError, match="AVUT does not read it for train"):
        score("AVUT", path, avut, split="train")


def test_an_unknown_benchmark_is_refused_before_files_are_read(tmp_path):
    with pytest.raises(UserError, match="no scores for 'Imaginary'"):
        score("Imaginary", tmp_path / "a", tmp_path / "b")


@pytest.fixture
def avsd(tmp_path):
    """Two dialogues, their last answers disclosed, and six references of each."""
    dialogs = [
        {"image_id": name, "dialog": [{"question": "what ?", "answer": answer}]}
        for name, answer in {"AB12C": "a man sits", "CD34E": "no one speaks"}.items()
    ]
    single = tmp_path / "lbl_test_set4DSTC7-AVSD.json"
    single.write_text(json.dumps({"dialogs": dialogs}))
    images = [{"name": f"{d['image_id']}_0", "id": i} for i, d in enumerate(dialogs)]
    wanted = [{"image_id": i, "id": n, "caption": f"{n} men"} for i in (0, 1) for n in range(6)]
    multiple = tmp_path / "test_set4DSTC7-AVSD_multiref.json"
    multiple.write_text(json.dumps({"images": images, "annotations": wanted}))
    return single, multiple


def test_avsds_reference_file_decides_the_protocol(avsd, predictions, quick_meteor):
    single, multiple = avsd
    path = predictions(*said(AB12C="a man sits", CD34E="no one speaks"))
    assert score("AVSD", path, single)["avsd/rouge_l_1ref"] == pytest.approx(100)
    figures = score("AVSD", path, multiple)
    assert figures["avsd/rouge_l_6ref"] < 100 and "avsd/cider_6ref_dstc7" in figures


@pytest.mark.parametrize("what", ["meteor", "tokenised"])
def test_a_program_that_fails_costs_its_own_figures_only(
    tmp_path, predictions, monkeypatch, capsys, what
):
    def broken(*sentences):
        raise UserError("it failed. Mend it")

    replace_meteor(monkeypatch)
    monkeypatch.setattr(captions, what, broken)
    row = {"scene_id": "s", "question_id": "7", "question": "?", "answers": ["two"]}
    path = tmp_path / "ScanQA_v1.0_val.json"
    path.write_text(json.dumps([row | {"object_ids": [], "object_names": []}]))
    with pytest.raises(UserError) as caught:
        score("ScanQA", predictions(*said(**{"7": "two"})), path)
    named = str(caught.value)
    assert "scanqa/meteor" in named and named.endswith("could not be computed: it failed. Mend it")
    assert ("scanqa/cider" in named) == (what == "tokenised") and "em1" not in named
    printed = capsys.readouterr().out
    assert re.search(r"scanqa/em1 .*100\.00", printed)
    assert re.search(r"scanqa/meteor .*failed", printed)


def test_video_mme_is_one_file(tmp_path, predictions):
    about = {"duration": "short", "domain": "D", "sub_category": "S", "videoID": "xYz"}
    question = {"question_id": "001-1", "task_type": "T", "question": "Q?", "answer": "C"}
    options = {"options": [f"{letter}. {letter * 2}" for letter in "ABCD"]}
    path = rows(tmp_path / "videomme.jsonl", about | question | options)
    figures = score("VideoMME", predictions(*said(**{"001-1": "Answer: C"})), path)
    assert (figures["videomme/lmms"], figures["videomme/official"]) == (0, 100)
    assert figures["videomme/strict"] == figures["videomme/lmms/duration/short"] == 0


OURS = [{"id": "7", "prediction": "a chair"}, {"id": "8", "prediction": "two"}]
PAVE = [
    {"question_id": row["id"], "prompt": "?", "text": row["prediction"], "metadata": {}}
    for row in OURS
]
AVQA = [
    {"question_id": row["id"], "image_id": "clip", "caption": row["prediction"], "answer": "A"}
    for row in OURS
]
COCO = [{"image_id": row["id"], "caption": row["prediction"]} for row in OURS]
LMMS_EVAL = [
    {
        "doc_id": number,
        "doc": {"question_id": row["id"], "question": "?"},
        "target": "B",
        "resps": [[row["prediction"]]],
        "filtered_resps": [row["prediction"]],
    }
    for number, row in enumerate(OURS)
]
OWN_TASKS = [  # as lmms-eval 0.7 writes samples, without the record
    {
        "doc_id": number,
        "target": "['B']",
        "filtered_resps": row["prediction"],
        "scanqa/em1": [row["id"], row["prediction"]],
    }
    for number, row in enumerate(OURS)
]
LINES = "\n".join(map(json.dumps, OURS))


@pytest.mark.parametrize(
    "content",
    [
        *(json.dumps(rows) for rows in (OURS, PAVE, AVQA, COCO)),
        *("\n".join(map(json.dumps, rows)) for rows in (LMMS_EVAL, OWN_TASKS)),
        LINES.replace("\n", "\r\n\r\n"),
        "\ufeff" + LINES + "\n",
        json.dumps({row["id"]: row["prediction"] for row in OURS}),
    ],
)
def test_predictions_in_the_forms_that_others_write(tmp_path, content):
    path = tmp_path / "predictions.txt"
    path.write_bytes(content.encode())
    assert read_predictions(path) == {"7": "a chair", "8": "two"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("id,prediction\n7,a chair\n", "is not JSON"),
        ('{"doc_id": 0, "target": "B", "filtered_resps": ["A"]}\n' * 2, "id should be an id"),
        ('{"doc": {"question_id": 1}, "filtered_resps": ["A", "B"]}\n', "a list of 1 texts"),
        ('{"7": ["a chair"]}', "prediction should be a text"),
    ],
)
def test_other_forms_are_refused_with_what_is_expected(tmp_path, content, reason):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_predictions(path)
    told = str(caught.value)
    assert str(path) in told and reason in told
    assert 'Predictions are {"id": ..., "prediction": ...}' in told
    assert repr(content[:100])[:-1] in told and "official" not in told


def test_missing_and_compressed_predictions_are_refused(tmp_path):
    with pytest.raises(UserError, match="Give the file that an evaluation wrote"):
        read_predictions(tmp_path / "nothing.jsonl")
    (tmp_path / "a.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(UserError, match="is compressed"):
        read_predictions(tmp_path / "a.jsonl.gz")
