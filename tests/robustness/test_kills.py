"""Runs that are killed with SIGKILL, workers included, at many places and started again.

Each must make exactly what an undisturbed run makes.
"""

import re
from itertools import cycle, islice
from math import ceil
from random import Random
from typing import Final

import pytest

from tests.robustness.commands import BATCHES, EPOCHS
from tests.robustness.same_run import differences
from vlynx_pl.runs.run_folder import is_finished

_KILLS: Final = 5  # per run, at most
RESULTS: Final = {
    "alignment": ("vision-3d", "report.json"),
    "tuning": ("llm-scanqa", "scores-val.json"),
}
"""Kind of run → its adapter, and the file that it writes last."""
VARIANTS: Final = [
    ("alignment", {"checkpoint.minutes": 0}),
    ("alignment", {"checkpoint.minutes": 1000, "data.num_workers": 2}),  # steps are repeated
    ("tuning", {"checkpoint.minutes": 0}),
    ("tuning", {"checkpoint.minutes": 1000}),
]


def places(kind, options):
    """Yield the names of all places of a run, in order."""
    adapter, last = RESULTS[kind]
    yield "start"
    if kind == "alignment":
        yield "writing guidance.safetensors"
    for epoch in range(EPOCHS):
        yield f"start of epoch {epoch}"
        for batch in range(BATCHES):
            yield f"before batch {epoch}.{batch}"
            if not options["checkpoint.minutes"]:
                yield f"writing step-{epoch * BATCHES + batch:08d}.ckpt"
            yield f"in batch {epoch}.{batch}"
            yield f"after batch {epoch}.{batch}"
        yield f"before validation {epoch}"
        yield f"writing step-{(epoch + 1) * BATCHES:08d}.ckpt"
        yield f"in validation {epoch}.0"
        yield f"end of epoch {epoch}"
        yield f"writing {adapter}"
        if epoch == 0:
            yield "start"  # of a resumed run
    yield "end of training"
    yield f"writing {last}"


def planned(kills, seed):
    """Yield runs and the places where each is killed, spread over all places."""
    random = Random(seed)
    everywhere = [list(places(*variant)) for variant in VARIANTS]
    cells = [(v, n) for v, known in enumerate(everywhere) for n in range(len(known))]
    random.shuffle(cells)
    chosen = sorted(islice(cycle(cells), kills))
    for number, (variant, known) in enumerate(zip(VARIANTS, everywhere, strict=True)):
        own = [known[n] for v, n in chosen if v == number]
        runs = ceil(len(own) / _KILLS)
        for first in range(runs):
            yield *variant, own[first::runs]


def pytest_generate_tests(metafunc):
    options = metafunc.config.getoption
    case = ("alignment", VARIANTS[1][1], ["writing guidance.safetensors", "in batch 1.1"])
    few = pytest.param(*case, marks=pytest.mark.slow)
    many = planned(options("--kills", 50), options("--seed", 0))
    marked = [pytest.param(*case, marks=pytest.mark.crash) for case in many]
    metafunc.parametrize(("kind", "options", "killed_at"), [few, *marked])


def test_a_killed_run_ends_like_an_undisturbed_one(kind, options, killed_at, runs, note, request):
    run = runs.folder / re.sub(r"\W+", "-", request.node.name)
    for place in killed_at:
        runs.begin(run, place, kind=kind, **options).kill()
        of_kind = re.sub(r"-\d{8}| \d+(\.\d+)?$", "", place)
        note("Where the kills fell", of_kind, {kind: 1})
    unfinished = len(list(run.rglob(".*.unfinished")))
    ended = runs.whole(run, kind=kind, **options)
    wrong = differences(run, runs.undisturbed(kind))
    note(
        "What became of the runs",
        kind,
        {
            "runs": 1,
            "processes": len(killed_at) + 1,
            "finished": int(is_finished(run)),
            "adapter equal": int(not _about("adapters", wrong)),
            "metrics.csv equal": int(not _about("metrics.csv", wrong)),
            "all equal": int(not wrong),
            "files left half written": unfinished,
        },
    )
    assert ended.code == 0, ended.said[-3000:]
    assert not wrong


def _about(file, wrong) -> bool:
    return any(what.startswith(file) for what in wrong)
