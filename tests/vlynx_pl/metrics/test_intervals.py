import numpy as np
import pytest

from datamodules.benchmarks.base import protocol_of
from vlynx_pl.metrics import Answered, differences, headline, intervals
from vlynx_pl.metrics.figures import Mean, Value

pytestmark = pytest.mark.usefixtures("quick_meteor")

TEXTS = ("two cats sit", "he runs home")
BENCHMARKS = {
    **dict.fromkeys(["AVSD", "MusicAVQA", "ScanQA", "SQA3D", "LLaVAVideo"], TEXTS),
    **dict.fromkeys(["AVQA", "VideoMME", "MVBench", "MLVU", "AVUT"], "BC"),
    "EgoExo4D": ("Late Expert", "Novice"),
}
LABELS = ("modality", "type", "task", "relation", "duration", "domain", "sub_category", "task_type")


def answered(right, clips=4, questions=3):
    """Every second answer is right, in clips with different numbers of them."""
    return [
        Answered(
            f"{clip}-{number}",
            right[clip % 2] if (clip + number) % 2 else "a dog",
            (right[clip % 2],),
            labels=dict.fromkeys([*LABELS, "scenario"], f"kind {number % 2}"),
            clip=f"clip {clip}",
        )
        for clip in range(clips)
        for number in range(questions + clip)
    ]


def mean(name, values):
    """A figure of values in the form clip → its values."""
    flat = [
        Value(f"{clip}-{i}", clip, float(one))
        for clip, each in values.items()
        for i, one in enumerate(each)
    ]
    return {name: Mean(np.mean([one.value for one in flat]), flat)}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_values_that_a_figure_keeps_are_those_that_it_is_the_mean_of(benchmark):
    figures = protocol_of(benchmark).figures(answered(BENCHMARKS[benchmark]))
    means = {name: figure for name, figure in figures.items() if isinstance(figure, Mean)}
    for name, figure in means.items():
        of_groups = [np.mean([one.value for one in group]) for group in figure.groups]
        assert np.mean(of_groups) == pytest.approx(figure), name
    without = {name.split("/")[-1].split("_")[0] for name in figures.keys() - means.keys()}
    assert without <= {"bleu1", "bleu2", "bleu3", "bleu4", "meteor", "majority"}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_headline_has_an_interval_around_it(benchmark):
    figures = protocol_of(benchmark).figures(answered(BENCHMARKS[benchmark]))
    first = headline(figures)
    low, high = intervals(figures)[first]
    assert low < figures[first] < high


def test_one_clip_has_no_interval_nor_has_a_group_in_one_clip():
    protocol = protocol_of("AVUT")
    assert intervals(protocol.figures(answered("BC", clips=1))) == {}
    found = answered("BC")
    alone = Answered("x", "B", ("B",), labels={"task": "rare"}, clip="clip 0")
    bars = intervals(protocol.figures([*found, alone]))
    assert "avut/strict/task/kind_0" in bars and "avut/strict/task/rare" not in bars


def test_the_interval_is_that_of_resampled_clips_with_all_their_questions():
    """Against a plain loop over draws of clips."""
    random = np.random.default_rng(1)
    values = {f"{n}": random.random(1 + n % 4) * (n % 3) for n in range(30)}
    drawn = []
    for _ in range(2000):
        names = random.choice(list(values), len(values))
        drawn.append(np.concatenate([values[name] for name in names]).mean())
    wanted = np.percentile(drawn, [2.5, 97.5])
    assert intervals(mean("x", values))["x"] == pytest.approx(wanted, rel=0.05)


SIMULATIONS, CLIPS = 250, 60


def exact_match(random, count):
    """Right with a probability that differs between clips, 0.4 on average."""
    return 100 * random.binomial(1, random.beta(0.8, 1.2), count), 40


def cider_like(random, count):
    """Skewed and never negative, as CIDEr is; each clip has a level of its own."""
    return random.gamma(1.5, 40) * random.gamma(1, 1, count), 60


def coverage(simulate, clustered=True):
    """The share of splits whose interval contains the truth."""
    random = np.random.default_rng(0)
    figures = {}
    for number in range(SIMULATIONS):
        values = {}
        for clip in range(CLIPS):
            values[f"{clip}"], truth = simulate(random, 1 + random.poisson(5))
        if not clustered:
            flat = np.concatenate(list(values.values()))
            values = {f"{i}": [one] for i, one in enumerate(flat)}
        figures |= mean(f"{number}", values)
    bars = intervals(figures).values()
    return np.mean([low <= truth <= high for low, high in bars])


@pytest.mark.parametrize("simulate", [exact_match, cider_like])
def test_ninety_five_percent_intervals_cover_the_truth(simulate):
    assert 0.90 <= coverage(simulate) <= 0.98
    assert coverage(simulate, clustered=False) < 0.85


def test_a_difference_is_paired_by_clips():
    random = np.random.default_rng(0)
    hard = {f"{n}": 100 * random.random(4) for n in range(20)}
    easier = {clip: each + 5 + random.random(4) for clip, each in hard.items()}
    one, other = mean("x", easier), mean("x", hard)
    found = differences(one, other)["x"]
    assert found.figure == pytest.approx(5.5, abs=0.2) and found.clear
    assert 5 < found.interval.low < found.figure < found.interval.high < 6
    low, high = intervals(one)["x"]
    assert high - low > 5
    same = differences(one, one)["x"]
    assert same.interval == (0, 0) and not same.clear


def test_a_figure_that_only_one_side_has_is_not_compared():
    one = mean("x", {"a": [1], "b": [2]})
    assert differences(one, {"x": 1.0}) == differences(one, {}) == {}
