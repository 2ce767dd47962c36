"""A run that is stopped at any place and started again ends as if it had not been stopped."""

import json
import shutil
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from tests.robustness.in_process import STAGES, sessions
from tests.robustness.same_run import differences
from vlynx_pl.runs.checkpoints import newest_checkpoint

slow = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("own_process")

ASKED = "in batch 1.1"  # stopped by a signal; at all other places the run is killed
MID_EPOCH = "after batch 1.1"
PLACES = (
    "before batch 0.0",
    "after batch 0.2",
    "before validation 0",
    "end of epoch 0",
    "start of epoch 1",
    ASKED,
    MID_EPOCH,
    "in validation 2.0",
    "end of training",
)
SOME = ("after batch 0.2", ASKED, MID_EPOCH, "in validation 2.0")
FAST = (("alignment", MID_EPOCH), ("tuning", ASKED), ("tuning", "in validation 2.0"))


def stopped_and_resumed(ranks, world, run, stage, place, **options):
    sessions(ranks, world, run, stage, place, **options)
    assert not (run / "trained.safetensors").exists(), "it was not stopped"
    sessions(ranks, world, run, stage, **options)


def steps(run):
    """Return the epoch and number of every batch trained on, repetitions included."""
    return [json.loads(line)[:2] for line in (run / "seen-0.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        pytest.param(stage, place, marks=[] if (stage, place) in FAST else slow)
        for stage, places in (("alignment", PLACES), ("tuning", SOME))
        for place in places
    ],
)
def test_a_resumed_run_ends_like_an_undisturbed_one(place, stage, undisturbed, world, tmp_path):
    stopped_and_resumed(1, world, tmp_path, stage, place)
    assert not differences(tmp_path, undisturbed(stage))


@slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_of_every_family_is_resumed(tiny, stage, undisturbed, world, tmp_path):
    stopped_and_resumed(1, world, tmp_path, stage, MID_EPOCH, model=tiny)
    assert not differences(tmp_path, undisturbed(stage, model=tiny))


@pytest.mark.parametrize("stage", ["alignment", pytest.param("tuning", marks=slow)])
def test_a_run_may_be_stopped_many_times(stage, undisturbed, world, tmp_path):
    for place in PLACES:
        sessions(1, world, tmp_path, stage, place)
    sessions(1, world, tmp_path, stage)
    assert not differences(tmp_path, undisturbed(stage))


@pytest.mark.parametrize(
    ("stage", "place"),
    [("alignment", MID_EPOCH), pytest.param("tuning", "in validation 1.0", marks=slow)],
)
def test_loader_workers_resume_in_mid_epoch(place, stage, undisturbed, world, tmp_path):
    stopped_and_resumed(1, world, tmp_path, stage, place, workers=2)
    assert not differences(tmp_path, undisturbed(stage))


# Each rank starts a fork server of its own for its workers.
@pytest.mark.parametrize(
    ("stage", "place", "workers"),
    [
        ("alignment", ASKED, 0),
        pytest.param("alignment", "in validation 1.0", 0, marks=slow),
        pytest.param("tuning", ASKED, 0, marks=slow),
        pytest.param("tuning", MID_EPOCH, 2, marks=slow),
    ],
)
def test_two_ranks_resume_together(stage, place, workers, undisturbed, world, tmp_path):
    stopped_and_resumed(2, world, tmp_path, stage, place, workers=workers)
    assert not differences(tmp_path, undisturbed(stage, 2))


@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param({"val_check_interval": 2}, marks=slow),
        {"val_check_interval": 2, "check_val_every_n_epoch": None},
        pytest.param({"accumulate_grad_batches": 2}, marks=slow),
        pytest.param(  # validates between accumulated batches
            {"accumulate_grad_batches": 2, "val_check_interval": 1}, marks=slow
        ),
    ],
    ids=str,
)
def test_validation_within_an_epoch_and_accumulation(trainer, undisturbed, world, tmp_path):
    sessions(1, world, tmp_path, "alignment", "after batch 0.0", **trainer)
    stopped_and_resumed(1, world, tmp_path, "alignment", MID_EPOCH, **trainer)
    assert not differences(tmp_path, undisturbed("alignment", **trainer))


@pytest.mark.parametrize(
    ("stage", "place", "trainer", "count"),
    [
        ("alignment", "start of epoch 1", {"check_val_every_n_epoch": 2}, 9),
        pytest.param("alignment", "end of training", {"limit_val_batches": 0}, 9, marks=slow),
        ("alignment", "end of training", {"max_steps": 5}, 5),
        pytest.param("tuning", "start of epoch 1", {"limit_val_batches": 0}, 9, marks=slow),
    ],
)
def test_an_epoch_without_validation(place, trainer, count, stage, undisturbed, world, tmp_path):
    stopped_and_resumed(1, world, tmp_path, stage, place, minutes=1000, **trainer)
    assert not differences(tmp_path, undisturbed(stage, **trainer))
    assert len(steps(tmp_path)) == count, "no step is done twice"


def test_steps_after_the_last_checkpoint_are_repeated_exactly(undisturbed, world, tmp_path):
    stopped_and_resumed(1, world, tmp_path, "alignment", MID_EPOCH, minutes=1000)
    assert not differences(tmp_path, undisturbed("alignment"))
    assert steps(tmp_path).count([1, 0]) == 2  # the last checkpoint was at 1, 0


@pytest.mark.parametrize("stage", ["alignment", pytest.param("tuning", marks=slow)])
def test_another_number_of_ranks_resumes_in_mid_epoch(stage, undisturbed, world, tmp_path):
    exact = {"dropout": 0.0}  # each rank draws its own masks
    sessions(1, world, tmp_path, stage, "after batch 0.1", **exact)
    sessions(2, world, tmp_path, stage, "after batch 1.1", **exact)
    sessions(1, world, tmp_path, stage, **exact)
    alone = undisturbed(stage, **exact)
    assert_near(tmp_path, alone)
    # The ranks together saw every sample of each batch once.
    lines = [json.loads(x) for file in tmp_path.glob("seen-*") for x in file.open()]
    for epoch, number, _, wanted in map(json.loads, (alone / "seen-0.jsonl").open()):
        shares = {tuple(each[3]) for each in lines if each[:2] == [epoch, number]}
        whole = {share for share in shares if len(share) == len(wanted)}
        parts = shares - whole - {()}
        assert Counter(name for share in parts or whole for name in share) == Counter(wanted)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_learn_the_same_as_one(stage, undisturbed):
    assert_near(undisturbed(stage, 2, dropout=0.0), undisturbed(stage, dropout=0.0))


@slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_learn_the_same_as_one_in_every_family(tiny, stage, undisturbed):
    alone = undisturbed(stage, dropout=0.0, model=tiny)
    # AdamW amplifies rounding errors where a gradient is almost zero.
    assert_near(undisturbed(stage, 2, dropout=0.0, model=tiny), alone, atol=5e-5)


def assert_near(run, whole, atol=1e-5):
    """Compare everything except which rank saw which sample."""
    wrong = differences(run, whole, within=1e-4)
    assert all(what.startswith("seen-") for what in wrong), wrong
    one, other = (load_file(each / "trained.safetensors") for each in (run, whole))
    for name in other:
        torch.testing.assert_close(one[name], other[name], atol=atol, rtol=0)


def test_other_losses_are_summed_over_ranks_too(undisturbed):
    """Two ranks have two samples and one of a batch, or one and none."""
    losses = (("attn_floor", True), ("stat_scale", "relative"))
    runs = [undisturbed("alignment", ranks, dropout=0.0, losses=losses) for ranks in (1, 2)]
    alone, together = (load_file(run / "trained.safetensors") for run in runs)
    plain = load_file(undisturbed("alignment", dropout=0.0) / "trained.safetensors")
    assert all(not torch.equal(alone[name], plain[name]) for name in plain)
    apart = torch.cat([(together[name] - alone[name]).abs().flatten() for name in plain])
    # Where the hinge leaves almost no gradient, AdamW amplifies rounding errors.
    assert apart.mean() < 1e-7 and apart.max() < 1e-4
    assert not [w for w in differences(*runs, within=1e-4) if w.startswith("metrics.csv")]


def test_two_ranks_keep_the_same_tokens_as_one(undisturbed):
    """Each rank measures its share of the usual tokens, by which tokens are kept."""
    alone, together = (
        undisturbed("tuning", ranks, dropout=0.0, keep=(("3d", 0.25),)) for ranks in (1, 2)
    )
    assert_near(together, alone)
    usual = [load_file(run / "usual.safetensors")["3d"] for run in (alone, together)]
    torch.testing.assert_close(*usual)
    whole = load_file(undisturbed("tuning", dropout=0.0) / "trained.safetensors")
    few = load_file(alone / "trained.safetensors")
    assert not all(torch.equal(few[name], whole[name]) for name in whole), "nothing was reduced"


def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_used(undisturbed, world, tmp_path):
    sessions(1, world, tmp_path, "alignment", MID_EPOCH)
    newest, before = sorted((tmp_path / "checkpoints").iterdir(), reverse=True)
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    found, [wrong] = newest_checkpoint(tmp_path)
    assert found == before
    assert str(newest) in wrong
    sessions(1, world, tmp_path, "alignment", "before batch 1.2", minutes=1000)
    # That session saved an earlier step than that of the damaged checkpoint.
    sessions(1, world, tmp_path, "alignment")
    assert not differences(tmp_path, undisturbed("alignment"))


def test_a_run_does_not_resume_with_other_data(world, tmp_path):
    root = shutil.copytree(world, tmp_path / "data")
    sessions(1, root, tmp_path / "run", "tuning", MID_EPOCH)
    annotations = root / "ScanQA_v1.0_train.json"
    annotations.write_text(annotations.read_text().replace("scene0000_00", "scene0001_00"))
    with pytest.raises(ValueError, match="number of clips was 7, now it is 6"):
        sessions(1, root, tmp_path / "run", "tuning")
