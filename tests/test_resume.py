"""A run that is stopped anywhere and started again ends as if it had not been."""

import csv
import json
import os
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from safetensors.torch import load_file, save_file

from callbacks import ReferenceGuidance, RunCheckpoint
from datamodules import DepthDataModule
from datamodules.benchmarks import ScanQA
from tests.conftest import MINIATURE
from tests.datamodules.conftest import write_scannet_scene
from tests.processes import meet, together
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import load_backbone
from vlynx_pl.checkpoints import newest_checkpoint
from vlynx_pl.interruption import Interrupted, forget_signals
from vlynx_pl.metrics_log import MetricsLog
from vlynx_pl.objectives import AlignmentObjective
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning

EPOCHS = 3
LAST = 2  # number of an epoch's last batch
STAGES = ("alignment", "tuning")
PLACES = {
    "first batch": ("start", 0, 0),
    "mid-epoch": ("end", 1, 1),
    "last batch of an epoch": ("end", 0, LAST),
    "before validation": ("validation start", 0),
    "in validation": ("validation", 1, 0),
    "epoch end": ("epoch end", 0),
    "start of an epoch": ("epoch start", 1),
    "last batch of all": ("end", EPOCHS - 1, LAST),
    "in the last validation": ("validation", EPOCHS - 1, 0),
    "end of training": ("training end",),
    "inside a signal": ("signal", 1, 1),
}
slow = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def hasty_disk():
    """No test pulls the plug, and waiting for the disk would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


class Killed(BaseException):
    """Stands for SIGKILL: nothing is saved any more."""


class Watch(Callback):
    """Notes every batch and learning rate in a file a rank, and kills at one place."""

    def __init__(self, run: Path, place: tuple) -> None:
        self.run, self.place = run, place

    def _pass(self, *place) -> None:
        if place == self.place:
            raise Killed

    def on_train_epoch_start(self, trainer, pl_module):
        self._pass("epoch start", trainer.current_epoch)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._pass("start", trainer.current_epoch, batch_idx)

    def on_before_backward(self, trainer, pl_module, loss):
        if self.place == ("signal", trainer.current_epoch, trainer.fit_loop.batch_idx):
            self.place = ()
            os.kill(os.getpid(), signal.SIGUSR1)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        names = batch["clips"] if isinstance(batch, dict) else [each["name"] for each in batch]
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        with (self.run / f"seen-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([trainer.current_epoch, batch_idx, rate, names]) + "\n")
        self._pass("end", trainer.current_epoch, batch_idx)

    def on_validation_start(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self._pass("validation start", trainer.current_epoch)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, loader=0):
        if not trainer.sanity_checking:
            self._pass("validation", trainer.current_epoch, batch_idx)

    def on_train_epoch_end(self, trainer, pl_module):
        self._pass("epoch end", trainer.current_epoch)

    def on_train_end(self, trainer, pl_module):
        self._pass("training end")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven scenes to train on, which make no whole number of batches; two to validate on."""
    root = tmp_path_factory.mktemp("data")
    for number in range(9):
        write_scannet_scene(root / "scans" / f"scene000{number}_00", range(1))
    for split, scenes in (("train", range(7)), ("val", (7, 8))):
        records = [
            {
                "scene_id": f"scene000{scene}_00",
                "question_id": f"{split}-{scene}-{i}",
                "question": f"What is the colour of thing {i}?",
                "answers": ["grey"],
                "object_ids": [],
                "object_names": [],
            }
            for scene in scenes
            for i in range(1 + scene % 3)
        ]
        (root / f"ScanQA_v1.0_{split}.json").write_text(json.dumps(records))
    return root


def session(
    data, run, stage, place=(), *, workers=0, minutes=0.0, dropout=0.1, losses=(), **trainer
):
    """One process from its start to its end: what a command would do."""
    forget_signals()
    torch.manual_seed(0)
    run.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(str(MINIATURE), "float32")
    sizes = {"lora": Lora(2, 4, dropout), "learning_rate": 1e-3, "warmup": 0.2}
    if stage == "alignment":
        module = InterfaceAlignment(backbone, "3d", AlignmentObjective(**dict(losses)), **sizes)
        own = [ReferenceGuidance(max_batches=2)]
    else:
        module = InstructionTuning(backbone, "scanqa", AlignedStreams({"3d": "base"}), **sizes)
        own = []
    module_data = DepthDataModule(
        data,
        benchmark=ScanQA(data),
        objective=stage,
        frames=1,
        frame_size=backbone.frame_size,
        batch_size=3,
        num_workers=workers,
    )
    trainer = Trainer(
        **{
            "default_root_dir": run,
            "max_epochs": EPOCHS,
            "accelerator": "cpu",
            "logger": MetricsLog(run),
            "log_every_n_steps": 1,
            "callbacks": [*own, Watch(run, place), RunCheckpoint(minutes)],
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            **trainer,
        }
    )
    begun_with, _ = newest_checkpoint(run)
    try:
        trainer.fit(module, module_data, ckpt_path=begun_with, weights_only=True)
    except (Killed, Interrupted):
        return
    if trainer.is_global_zero:
        trained = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
        save_file(trained, run / "trained.safetensors")


def sessions(ranks, *arguments, **options) -> None:
    """A session of so many processes."""
    if ranks == 1:
        session(*arguments, **options)
        return
    with tempfile.TemporaryDirectory() as folder:
        assert together(_rank, ranks, ranks, folder, arguments, options) == [0] * ranks


def _rank(rank, ranks, folder, arguments, options) -> None:
    os.fsync = lambda descriptor: None
    meet(rank, ranks, f"{folder}/meeting")
    session(*arguments, **options, devices=ranks, strategy="ddp")


def left(run: Path) -> tuple:
    """What a run is judged by: adapter, batches with learning rates of each rank, metrics."""
    seen = [
        {tuple(line[:2]): line for line in map(json.loads, file.read_text().splitlines())}
        for file in sorted(run.glob("seen-*.jsonl"))
    ]
    with (run / "metrics.csv").open() as file:
        metrics = sorted(sorted(row.items()) for row in csv.DictReader(file))
    return load_file(run / "trained.safetensors"), seen, metrics


def assert_same(run: Path, other: Path) -> None:
    (trained, seen, metrics), (expected, saw, logged) = left(run), left(other)
    assert trained.keys() == expected.keys()
    assert all(torch.equal(trained[name], expected[name]) for name in expected)
    assert seen == saw
    assert metrics == logged


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """(stage, ranks) → folder of a run that was not stopped and never saved between validations."""
    made: dict[tuple, Path] = {}

    def run(stage: str, ranks: int, **options) -> Path:
        key = (stage, ranks, *options.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp("run")
            sessions(ranks, data, made[key], stage, minutes=1000, **options)
        return made[key]

    return run


def stopped_and_resumed(ranks, data, run, stage, place, **options) -> None:
    sessions(ranks, data, run, stage, place, **options)
    assert not (run / "trained.safetensors").exists(), "it was not stopped"
    sessions(ranks, data, run, stage, **options)


# The slow tests try all that is left out here.
SOME = ("mid-epoch", "last batch of an epoch", "in the last validation", "inside a signal")
WITH_WORKERS = {("alignment", "mid-epoch"), ("tuning", "in validation")}
EVERYWHERE = [
    pytest.param(stage, place, marks=[] if place in SOME else slow)
    for stage in STAGES
    for place in PLACES
]


@pytest.mark.parametrize(("stage", "place"), EVERYWHERE)
def test_a_run_goes_on_as_if_it_had_not_been_stopped(place, stage, undisturbed, data, tmp_path):
    stopped_and_resumed(1, data, tmp_path, stage, PLACES[place])
    assert_same(tmp_path, undisturbed(stage, 1))


@pytest.mark.parametrize("stage", ["alignment", pytest.param("tuning", marks=slow)])
def test_a_run_may_be_stopped_again_and_again(stage, undisturbed, data, tmp_path):
    for place in PLACES.values():
        sessions(1, data, tmp_path, stage, place)
    sessions(1, data, tmp_path, stage)
    assert_same(tmp_path, undisturbed(stage, 1))


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        pytest.param(stage, place, marks=[] if (stage, place) in WITH_WORKERS else slow)
        for stage in STAGES
        for place in PLACES
    ],
)
def test_workers_read_on_where_they_were(place, stage, undisturbed, data, tmp_path):
    stopped_and_resumed(1, data, tmp_path, stage, PLACES[place], workers=2)
    assert_same(tmp_path, undisturbed(stage, 1))


@pytest.mark.parametrize("stage", ["alignment", pytest.param("tuning", marks=slow)])
def test_two_ranks_go_on_together(stage, undisturbed, data, tmp_path):
    stopped_and_resumed(2, data, tmp_path, stage, PLACES["inside a signal"])
    assert_same(tmp_path, undisturbed(stage, 2))


@slow
# Ranks are copies of a fork server, so each of them starts another one for its workers.
@pytest.mark.parametrize(
    ("place", "workers"), [*((place, 0) for place in PLACES), ("mid-epoch", 2)]
)
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_go_on_from_everywhere(place, stage, workers, undisturbed, data, tmp_path):
    stopped_and_resumed(2, data, tmp_path, stage, PLACES[place], workers=workers)
    assert_same(tmp_path, undisturbed(stage, 2))


@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param({"val_check_interval": 2}, marks=slow),
        {"val_check_interval": 2, "check_val_every_n_epoch": None},
        pytest.param({"accumulate_grad_batches": 2}, marks=slow),
        {"accumulate_grad_batches": 2, "val_check_interval": 1},  # validates amid summing up
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "place", ["mid-epoch", *(pytest.param(p, marks=slow) for p in ("in validation", "first batch"))]
)
def test_validation_within_an_epoch_and_accumulation(place, trainer, undisturbed, data, tmp_path):
    sessions(1, data, tmp_path, "alignment", ("end", 0, 0), **trainer)
    stopped_and_resumed(1, data, tmp_path, "alignment", PLACES[place], **trainer)
    assert_same(tmp_path, undisturbed("alignment", 1, **trainer))


@pytest.mark.parametrize("stage", ["alignment", pytest.param("tuning", marks=slow)])
@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        ({"check_val_every_n_epoch": 2}, 9),
        ({"limit_val_batches": 0}, 9),
        ({"max_steps": 5}, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["start of an epoch", "end of training"])
def test_an_epoch_without_validation(place, trainer, steps, stage, undisturbed, data, tmp_path):
    rarely = {"minutes": 1000, **trainer}
    stopped_and_resumed(1, data, tmp_path, stage, PLACES[place], **rarely)
    assert_same(tmp_path, undisturbed(stage, 1, **trainer))
    lines = (tmp_path / "seen-0.jsonl").read_text().splitlines()
    assert len(lines) == steps, "no step is done twice"


def test_steps_since_the_last_checkpoint_are_done_again_alike(undisturbed, data, tmp_path):
    stopped_and_resumed(1, data, tmp_path, "alignment", PLACES["mid-epoch"], minutes=1000)
    assert_same(tmp_path, undisturbed("alignment", 1))
    seen = [json.loads(line)[:2] for line in (tmp_path / "seen-0.jsonl").read_text().splitlines()]
    assert [1, 0] in seen and seen.count([1, 0]) == 2  # the checkpoint before was at 1, 0


@pytest.mark.parametrize("stage", ["alignment", pytest.param("tuning", marks=slow)])
def test_another_number_of_ranks_takes_over_in_the_middle(stage, undisturbed, data, tmp_path):
    exact = {"dropout": 0.0}  # which each rank draws for itself
    sessions(1, data, tmp_path, stage, ("end", 0, 1), **exact)
    sessions(2, data, tmp_path, stage, ("end", 1, 1), **exact)
    sessions(1, data, tmp_path, stage, **exact)
    trained, _, metrics = left(tmp_path)
    expected, saw, logged = left(undisturbed(stage, 1, **exact))
    for name in expected:
        torch.testing.assert_close(trained[name], expected[name], atol=1e-5, rtol=0)
    assert_near(metrics, logged)
    # Of every batch, the ranks together saw what one alone does, once.
    lines = [json.loads(x) for file in tmp_path.glob("seen-*") for x in file.open()]
    for (epoch, number), line in saw[0].items():
        shares = {tuple(each[3]) for each in lines if each[:2] == [epoch, number]}
        whole = {share for share in shares if len(share) == len(line[3])}
        parts = shares - whole - {()}
        names = Counter(name for share in parts or whole for name in share)
        assert names == Counter(line[3])


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_learn_what_one_does(stage, undisturbed, data):
    alone, _, logged = left(undisturbed(stage, 1, dropout=0.0))
    together, _, metrics = left(undisturbed(stage, 2, dropout=0.0))
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=1e-5, rtol=0)
    assert_near(metrics, logged)


def test_other_losses_are_of_all_ranks_too(undisturbed, data):
    """Parts of a batch are of two samples and of one, and of one and of none."""
    losses = {"attn_floor": True, "stat_scale": "relative"}
    alone, together = (
        left(undisturbed("alignment", ranks, dropout=0.0, losses=tuple(losses.items())))
        for ranks in (1, 2)
    )
    plain, *_ = left(undisturbed("alignment", 1, dropout=0.0))
    assert all(not torch.equal(alone[0][name], plain[name]) for name in plain)
    apart = torch.cat([(together[0][name] - alone[0][name]).abs().flatten() for name in plain])
    # Where a hinge leaves hardly any gradient, AdamW makes steps of its rounding.
    assert apart.mean() < 1e-7 and apart.max() < 1e-4
    assert_near(together[2], alone[2])


def assert_near(metrics, wanted) -> None:
    for row, other in zip(metrics, wanted, strict=True):
        for (name, value), (same, figure) in zip(row, other, strict=True):
            assert name == same
            assert value == figure or float(value) == pytest.approx(float(figure), abs=1e-4), name


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(undisturbed, data, tmp_path):
    sessions(1, data, tmp_path, "alignment", PLACES["mid-epoch"])
    newest, before = sorted((tmp_path / "checkpoints").iterdir(), reverse=True)
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    found, [wrong] = newest_checkpoint(tmp_path)
    assert found == before
    assert str(newest) in wrong
    sessions(1, data, tmp_path, "alignment", ("start", 1, 2), minutes=1000)
    # It has gone on from the one before and saved, where the damaged one was a later step.
    sessions(1, data, tmp_path, "alignment")
    assert_same(tmp_path, undisturbed("alignment", 1))


def test_a_run_does_not_go_on_with_other_data(data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    sessions(1, root, tmp_path / "run", "tuning", PLACES["mid-epoch"])
    annotations = root / "ScanQA_v1.0_train.json"
    annotations.write_text(annotations.read_text().replace("scene0000_00", "scene0001_00"))
    with pytest.raises(ValueError, match="number of clips was 7, now it is 6"):
        sessions(1, root, tmp_path / "run", "tuning")
