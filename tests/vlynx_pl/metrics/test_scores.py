import io
import json
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from datamodules.benchmarks.base import protocol_of
from tests.processes import meet, together
from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics import Answered, Protocol, Scores, headline, table
from vlynx_pl.metrics.captions import cider_of_each
from vlynx_pl.metrics.intervals import Interval

pytestmark = pytest.mark.usefixtures("quick_meteor")
LABELS = {
    **{"modality": "Audio", "type": "Counting", "task": "count", "relation": "View"},
    **{"duration": "short", "domain": "D", "sub_category": "S", "task_type": "T", "scenario": "C"},
}
OPTIONS = ("red", "blue", "tan", "grey")
# What is right by every rule of a benchmark.
RIGHT = {
    **dict.fromkeys(["AVSD", "MusicAVQA", "ScanQA", "SQA3D", "LLaVAVideo"], "two cats"),
    **dict.fromkeys(["AVQA", "VideoMME", "MVBench", "MLVU", "AVUT"], "B"),
    "EgoExo4D": "Late Expert",
}
PROTOCOLS = {name: protocol_of(name) for name in RIGHT}
ACCURACIES = sorted(set(RIGHT) - {"AVSD", "LLaVAVideo"})
HEADLINES = {
    "AVSD": "avsd/cider_1ref",
    "AVQA": "avqa/substring",
    "AVUT": "avut/strict",
    "EgoExo4D": "egoexo/substring",
    "LLaVAVideo": "llava_video/cider",
    "MLVU": "mlvu/micro_released",
    "MVBench": "mvbench/micro_lmms",
    "MusicAVQA": "music_avqa/substring",
    "SQA3D": "sqa3d/em1",
    "ScanQA": "scanqa/cider",
    "VideoMME": "videomme/lmms",
}


def asked(number, said, wanted, **labels):
    return Answered(str(number), said, (wanted,), OPTIONS, LABELS | labels)


def scored(benchmark, answered):
    scores = Scores(PROTOCOLS[benchmark])
    for answer in answered:
        scores.update([answer])
    return scores.compute()


def test_every_benchmark_has_scores_and_the_papers_figure():
    for benchmark, right in RIGHT.items():
        figures = scored(benchmark, [asked(0, right, right), asked(1, None, right)])
        assert headline(figures) == HEADLINES[benchmark]
        assert all(name.startswith(f"{PROTOCOLS[benchmark].name}/") for name in figures)


@pytest.mark.parametrize("benchmark", ACCURACIES)
@pytest.mark.parametrize("nothing", [None, "  "])
def test_what_failed_is_counted_and_wrong_in_every_accuracy(benchmark, nothing):
    right = RIGHT[benchmark]
    answered = [asked(0, right, right), asked(1, right, right), asked(2, nothing, right)]
    figures = scored(benchmark, answered)
    name = PROTOCOLS[benchmark].name
    assert [figures.pop(f"{name}/n_{n}") for n in ("total", "answered", "failed")] == [3, 2, 1]
    figures.pop("egoexo/majority_baseline", None)
    if nothing is not None:  # a blank text is the parity that PAVE's evaluator is about
        figures.pop(f"{name}/em1_refined_pave", None)
    kinds = ("cider", "bleu", "meteor", "rouge")
    for figure, value in figures.items():
        if not figure.removeprefix(f"{name}/").startswith(kinds):
            assert value == pytest.approx(100 if figure.endswith("_answered") else 200 / 3), figure


@pytest.mark.parametrize("benchmark", sorted(RIGHT))
def test_each_question_has_a_figure_and_a_failure_the_lowest(benchmark):
    right = RIGHT[benchmark]
    answered = [asked(0, right, right), asked(1, None, "other"), asked(2, "x", "and another")]
    each = PROTOCOLS[benchmark].each(answered)
    assert len(each) == 3 and each[0] > each[1] == 0


def test_mlvu_averages_are_told_apart_by_name():
    tasks = {f"task{n}": n + 1 for n in range(7)}
    answered = [
        asked(f"{task}-{n}", "B" if n == 0 else "C", "B", task=task)
        for task, size in tasks.items()
        for n in range(size)
    ]
    figures = scored("MLVU", answered)
    assert figures["mlvu/micro"] == figures["mlvu/micro_strict"] == 100 * 7 / 28
    assert figures["mlvu/macro7"] == pytest.approx(100 / 7 * sum(1 / n for n in range(1, 8)))
    assert figures["mlvu/micro/task/task3"] == 25
    assert "mlvu/macro6" in scored("MLVU", answered[:-7]), "a part is never called macro7"


def test_music_groups_are_micro_averages():
    answered = [
        asked(0, "it is two", "two"),
        asked(1, "piano", "no", type="Comparative"),
        asked(2, "left", "right", modality="Visual"),
        asked(3, "two", "two", modality="Visual"),
        asked(4, None, "two"),
    ]
    figures = scored("MusicAVQA", answered)
    assert figures["music_avqa/substring"] == pytest.approx(60)
    assert figures["music_avqa/substring/modality/Audio"] == pytest.approx(200 / 3)
    assert figures["music_avqa/substring/modality/Audio/Counting"] == 50
    assert figures["music_avqa/substring/modality/Visual/Counting"] == 50
    assert figures["music_avqa/substring_answered"] == 75
    assert figures["music_avqa/strict"] == 20


def test_egoexos_majority():
    answered = [
        asked(n, "a novice", level) for n, level in enumerate(["Novice"] * 3 + ["Late Expert"])
    ]
    figures = scored("EgoExo4D", answered)
    assert figures["egoexo/majority_baseline"] == figures["egoexo/level"] == 75
    assert figures["egoexo/substring"] == 0  # published in the case as it is


def test_scene_answers():
    figures = scored("ScanQA", [asked(0, "Brown.", "brown"), asked(1, "the tv", "TV set")])
    assert (figures["scanqa/em1"], figures["scanqa/em1_refined"]) == (50, 100)
    assert figures["scanqa/em1_official"] == 0, "answers are not cleaned"
    figures = scored("SQA3D", [asked(0, "?", "red"), asked(1, None, "red"), asked(2, "", "red")])
    assert figures["sqa3d/em1_refined"] == 0
    assert figures["sqa3d/em1_refined_pave"] == pytest.approx(200 / 3), "of empty answers only"
    second = replace(asked(0, "desk", "table", type="What"), references=("table", "desk"))
    figures = scored("SQA3D", [second])
    assert figures["sqa3d/em1"] == figures["sqa3d/em1/type/What"] == 0
    assert figures["sqa3d/em1_refined"] == 0


def test_avsd_by_its_references():
    wanted = ("a man sits .", "he sits", "the man is on a chair", "he is sitting", "yes", "sits")
    answered = [
        replace(asked(0, "a sits .", ""), references=wanted),
        replace(asked(1, "no one", ""), references=wanted[::-1]),
    ]
    figures = scored("AVSD", answered)
    assert headline(figures) == "avsd/cider_6ref_dstc7"
    assert figures["avsd/bleu2_6ref_dstc7"] != figures["avsd/bleu2_6ref"]  # without its "a"
    answered[1] = replace(answered[1], references=wanted[:1])
    with pytest.raises(UserError, match="1 or 6 references"):
        scored("AVSD", answered)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_metric_starts_again_after_reset_and_moves():
    scores = Scores(PROTOCOLS["AVUT"]).to("cpu").half()
    scores.update([asked(0, "A", "B")])
    scores.reset()
    with pytest.raises(UserError, match="no answers to score"):
        scores.compute()
    scores.update([asked(1, "B", "B")])
    assert scores.compute()["avut/n_total"] == 1


def cider(answered):
    each = cider_of_each(answered)
    return {"toy/cider": math.fsum(each) / len(each)}


SHARDED = {
    "cider": Protocol("Toy", "toy", cider, cider_of_each),
    "music": PROTOCOLS["MusicAVQA"],
}


def shards():
    texts = ["two cats", "a dog barks", None, "the man é sits", "a cat", "two dogs and a cat"]
    answered = [asked(n, text, "two cats" if n % 2 else "a dog") for n, text in enumerate(texts)]
    return answered, (answered[::2], [*answered[1::2], answered[0]])  # as a sampler pads


def of_a_rank(rank, folder):
    meet(rank, 2, folder / "meeting")
    results = {}
    for name, protocol in SHARDED.items():
        scores, lonely = Scores(protocol), Scores(protocol)
        scores.update(shards()[1][rank])
        if rank == 1:
            lonely.update(shards()[0])
        results |= {name: scores.compute(), f"{name}, one rank without": lonely.compute()}
    (folder / f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_give_the_figures_of_one(tmp_path):
    single = {}
    for name, protocol in SHARDED.items():
        scores = Scores(protocol)
        scores.update(shards()[0])
        single |= {name: scores.compute(), f"{name}, one rank without": scores.compute()}
    assert single["cider"]["toy/n_total"] == 6 and single["cider"]["toy/cider"] > 0
    assert together(of_a_rank, 2, tmp_path) == [0, 0]
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == single


def test_the_table_shows_headline_and_counts_first():
    figures = scored("AVUT", [asked(0, "B", "B"), asked(1, None, "B")])
    printed = io.StringIO()
    Console(file=printed, width=100).print(table(figures, {"avut/strict": Interval(1, 99)}))
    rows = [line for line in printed.getvalue().splitlines() if "avut/" in line]
    assert "avut/strict" in rows[0] and "50.00" in rows[0] and "[1.00, 99.00]" in rows[0]
    assert [row.split()[3] for row in rows[1:4]] == ["2", "1", "1"]
    assert len(rows) == len(figures)
    Console(file=printed, width=100).print(table(figures, {}))
    assert "intervals need two clips" in printed.getvalue()
