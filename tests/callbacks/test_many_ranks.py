"""Answers and measurements are the same from one process and from two, and survive a stop."""

import json
import os
import signal
import time
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback

from callbacks import AlignmentReport, AnswerScores, RunCheckpoint, interruptible_barrier
from datamodules import DepthDataModule
from datamodules.benchmarks import ScanQA
from datamodules.loading.reading import ReadEpisode
from tests.conftest import MINIATURE, quiet_trainer
from tests.datamodules.conftest import write_scannet_scene, write_scanqa
from tests.processes import meet, together
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import load_backbone
from vlynx_pl.guidance import estimate_guidance
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import PREEMPTED, note_signals
from vlynx_pl.metrics import Protocol
from vlynx_pl.muting import circle
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning

SCENES = [3, 1, 4, 0, 2]  # in the order of the annotations, which is not that of names
EVERY = sorted(f"scene000{i}_00" for i in SCENES)


def right(answered):
    return [100.0 * (answer.text in answer.references) for answer in answered]


class Scenes(ScanQA):
    """ScanQA's files, scored without Java."""

    protocol = Protocol("Scenes", "scenes", lambda answered: {"scenes/right": 0.0}, right)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Eight scenes, questions about five of them, and one question about a missing scene."""
    root = tmp_path_factory.mktemp("world")
    for number in range(8):
        write_scannet_scene(root / "scans" / f"scene000{number}_00", [30 * number, 30 * number + 9])
    for part, numbers in (("train", range(3)), ("val", range(3, 8))):
        listed = "".join(f"scene000{number}_00\n" for number in numbers)
        (root / f"scannetv2_{part}.txt").write_text(listed)
    questions = [(scene, f"{scene}-{9 - i}", f"Which is {i}?") for scene in SCENES for i in (0, 1)]
    for split, asked in (("train", questions[:2]), ("val", questions), ("test_w_obj", questions)):
        write_scanqa(root, split, [*asked, (9, "9-9", "Which is 0?")])
    return root


def world_data(root, **options):
    return DepthDataModule(
        root, frames=2, frame_size=(64, 64), batch_size=3, num_workers=0, **options
    )


class Log:
    """Lines that several processes append to a file."""

    def __init__(self, path):
        self.path = path

    def note(self, *words):
        with self.path.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def of(self, kind):
        """The second words of all lines that begin with ``kind``."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return sorted(line.split()[1] for line in lines if line.startswith(kind))


class Asking(InstructionTuning):
    """Notes what it is asked, and lets events happen after the answer."""

    def __init__(self, backbone, log, events=None, max_new_tokens=3, seed=0):
        super().__init__(
            backbone,
            "scanqa",
            AlignedStreams({"3d": "base"}),
            lora=Lora(2, 16),
            max_new_tokens=max_new_tokens,
            learning_rate=0.0,
        )
        self.notes, self.events = log, events or {}
        randomise(self, seed)

    def answers(self, episode):
        self.notes.note("asked", episode["name"])
        self.notes.note("autocast", torch.is_autocast_enabled("cpu"))
        said = super().answers(episode)
        self.events.get(episode["name"], lambda: None)()
        return said

    def answers_again(self, ways, clip, other):
        self.notes.note("again", f"{clip.episode['name']}+{other.episode['name']}")
        said = super().answers_again(ways, clip, other)
        self.events.get(f"{clip.episode['name']} again", lambda: None)()
        return said


def randomise(module, seed=0):
    torch.manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)


class Run:
    """Sessions in one folder, each by one process or by two."""

    def __init__(self, folder, world):
        self.folder, self.world, self.sessions = folder, world, 0

    def session(self, work, ranks=1):
        """Run processes to their end; return their exit codes and their log."""
        self.sessions += 1
        log = Log(self.folder.with_suffix(f".log{self.sessions}"))
        meeting = self.folder.with_suffix(f".meeting{self.sessions}")
        return together(self._process, ranks, work, ranks, meeting, log), log

    def _process(self, rank, work, ranks, meeting, log):
        note_signals()
        read = ReadEpisode.__call__

        def noting(self, media):
            episode = read(self, media)
            if not episode["streams"]:
                log.note("unread", media.name)
            return episode

        ReadEpisode.__call__ = noting
        for name in ("evaluation.draw_answers", "alignment_report.save_figure"):
            module, function = name.split(".")
            setattr(import_module(f"callbacks.{module}"), function, lambda *_: None)
        if ranks > 1:
            meet(rank, ranks, meeting)
        trainer = partial(
            quiet_trainer,
            self.folder,
            devices=ranks,
            strategy="ddp" if ranks > 1 else "auto",
            use_distributed_sampler=False,
        )
        try:
            work(self, trainer, rank, log)
        except UserError as error:
            self.folder.with_suffix(f".error{rank}").write_text(str(error))
            raise
        finally:
            self.folder.with_suffix(f".ended{rank}").touch()

    def json(self, name):
        return json.loads((self.folder / name).read_text())

    def rows(self, split="test"):
        lines = (self.folder / f"predictions-{split}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def unfinished(self):
        return sorted(self.folder.glob("*.unfinished*"))


@pytest.fixture
def run(tmp_path, world):
    return Run(tmp_path / "run", world)


def answering(run, trainer, rank, log, events=None, fit=False, **settings):
    """Run ``vlynx test``, or a fit; events are by rank and scene."""
    module = Asking(
        load_backbone(str(MINIATURE), "float32"), log, (events or {}).get(rank), **settings
    )
    data = world_data(
        run.world,
        objective="tuning",
        benchmark=Scenes(run.world),
        on_bad_sample="skip",
        max_bad_share=1.0,
    )
    if fit:
        options = {"max_epochs": 1, "limit_val_batches": 0, "precision": "bf16-mixed"}
        trainer(RunCheckpoint(), AnswerScores(), **options).fit(module, datamodule=data)
    else:
        trainer(RunCheckpoint(), AnswerScores()).test(module, data, verbose=False)


def stop():
    signal.raise_signal(signal.SIGTERM)


STOPPED = {0: {"scene0004_00": stop}}  # in the first of two batches


@pytest.fixture(scope="module")
def whole(tmp_path_factory, world):
    """A test by one process that nothing disturbed."""
    run = Run(tmp_path_factory.mktemp("whole") / "run", world)
    codes, log = run.session(answering)
    assert codes == [0] and log.of("asked") == EVERY
    return run


def same(run, whole):
    assert run.unfinished == []
    names = ("predictions-test.jsonl", "scores-test.json")
    return all((run.folder / n).read_bytes() == (whole.folder / n).read_bytes() for n in names)


def test_two_processes_write_the_files_of_one_in_the_order_of_the_data(run, whole):
    codes, log = run.session(answering, ranks=2)
    assert codes == [0, 0] and log.of("asked") == EVERY
    assert same(run, whole)
    rows = run.rows()
    assert [row["id"] for row in rows] == [f"{i}-{n}" for i in SCENES for n in (9, 8)] + ["9-9"]
    assert len({row["prediction"] for row in rows}) > 2, "otherwise the order would not show"
    scores = run.json("scores-test.json")
    assert (scores["scenes/n_total"], scores["scenes/n_failed"]) == (11, 1)
    assert len(log.of("again")) == 5
    ways = ["without 3d", "another clip's 3d", "without video", "another clip's video"]
    assert [list(row["again"]) for row in rows] == [ways] * 11
    assert set(rows[-1]["again"].values()) == {None}, "its scene is missing"
    assert all(scores["probe"][way]["changed"] > 0 for way in ways)


def test_after_a_fit_each_process_answers_its_share_in_the_precision_of_the_fit(
    run, world, tmp_path
):
    alone = Run(tmp_path / "alone", world)
    for one, ranks in ((alone, 1), (run, 2)):
        codes, log = one.session(partial(answering, fit=True), ranks)
        assert codes == [0] * ranks and log.of("asked") == EVERY
        assert set(log.of("autocast")) == {"True"}
    assert run.rows("val") == alone.rows("val")
    assert run.json("scores-val.json") == alone.json("scores-val.json")


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_was_answered_is_neither_asked_nor_read_again(run, whole, ranks):
    codes, log = run.session(partial(answering, events=STOPPED))
    assert codes == [PREEMPTED] and log.of("asked") == EVERY[1:2] + EVERY[3:]
    assert len(run.unfinished) == 1
    codes, log = run.session(answering, ranks)
    assert codes == [0] * ranks and log.of("asked") == ["scene0000_00", "scene0002_00"]
    assert log.of("unread") == EVERY[1:2] + EVERY[3:]
    assert same(run, whole)


def test_what_was_asked_again_is_not_asked_a_third_time(run, whole):
    order = circle(EVERY)
    codes, log = run.session(partial(answering, events={0: {f"{order[2]} again": stop}}))
    pairs = [f"{name}+{order[i - 1]}" for i, name in enumerate(order)]
    assert codes == [PREEMPTED] and log.of("again") == sorted(pairs[:3])
    assert len(run.unfinished) == 2
    codes, log = run.session(answering)
    assert codes == [0] and log.of("asked") == [] and log.of("again") == sorted(pairs[3:])
    assert same(run, whole)


@pytest.mark.slow
def test_after_a_fit_answering_goes_on_too(run):
    codes, _ = run.session(partial(answering, fit=True, events=STOPPED))
    assert codes == [PREEMPTED] and len(run.unfinished) == 1
    codes, log = run.session(partial(answering, fit=True))
    assert codes == [0] and log.of("asked") == ["scene0000_00", "scene0002_00"]
    assert len(run.rows("val")) == 11 and run.unfinished == []


@pytest.mark.parametrize("other", [{"max_new_tokens": 2}, {"seed": 1}])
def test_answers_made_with_other_settings_are_not_used(run, world, tmp_path, other):
    run.session(partial(answering, events=STOPPED))
    codes, log = run.session(partial(answering, **other), ranks=2)
    assert codes == [0, 0] and log.of("asked") == EVERY
    fresh = Run(tmp_path / "fresh", world)
    fresh.session(partial(answering, **other))
    assert same(run, fresh)


def test_a_changed_question_and_one_without_an_answer_are_asked_again(run, whole):
    run.session(partial(answering, events=STOPPED))
    [kept] = run.unfinished
    lines = [line for line in kept.read_text().splitlines() if line]
    assert "Which is 0?" in lines[2] and "scene0001" in lines[2] and "scene0004" in lines[-1]
    lines[2] = lines[2].replace("Which", "What")
    kept.write_text("\n".join(lines[:-1]))
    codes, log = run.session(answering)
    assert codes == [0] and log.of("asked") == [name for name in EVERY if "3" not in name]
    assert same(run, whole)


def stop_while_waiting():
    interruptible_barrier.time = SimpleNamespace(sleep=lambda _: stop())


def stop_after(file):
    while not file.exists():
        time.sleep(0.05)
    stop()


@pytest.mark.slow
def test_a_process_that_waits_for_a_stopped_one_stops_too(run, whole):
    last = partial(stop_after, run.folder.with_suffix(".ended0"))
    # Rank 0 answers all of its share and waits for rank 1, which is stopped after it.
    events = {0: {"scene0000_00": stop_while_waiting}, 1: {"scene0001_00": last}}
    codes, log = run.session(partial(answering, events=events), 2)
    assert codes == [PREEMPTED, 0] and log.of("asked") == EVERY[:2] + EVERY[3:]
    assert len(run.unfinished) == 2
    codes, log = run.session(answering)
    assert codes == [0] and log.of("asked") == ["scene0002_00"]
    assert same(run, whole)


@pytest.mark.slow
def test_a_process_that_waits_for_an_ended_one_says_where_to_look(run):
    events = {1: {"scene0001_00": partial(os._exit, 9)}}
    codes, _ = run.session(partial(answering, events=events), 2)
    assert codes == [1, 9]
    error = run.folder.with_suffix(".error0").read_text()
    assert "another process of this run has ended; see what it said" in error
    assert "Every answer so far is in" in error


class Measured(InterfaceAlignment):
    """Notes each clip that is encoded without an adapter: RGB videos, and frames before a fit."""

    def encode(self, frames, adapter):
        if adapter is None:
            for clip in frames:
                self.notes.note("measured", clip.float().mean().item())
        return super().encode(frames, adapter)


def measuring(run, trainer, rank, log, checkpoint=None, stopped=False, **settings):
    torch.manual_seed(0)
    backbone = load_backbone(str(MINIATURE), "float32")
    module = Measured(backbone, "3d", lora=Lora(2, 4), learning_rate=0.0)
    module.notes = log
    randomise(module)
    noise = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    module.use_guidance(estimate_guidance(backbone, [noise]))
    if stopped:
        stop()

    def save(trainer, _):
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(run.folder / "1.ckpt")

    report = AlignmentReport(**settings)
    callbacks = RunCheckpoint(), report, LambdaCallback(on_train_epoch_start=save)
    made = trainer(*callbacks, max_epochs=2, limit_val_batches=0)
    made.fit(module, datamodule=world_data(run.world), ckpt_path=checkpoint, weights_only=True)


def numbers(found, name=""):
    """All numbers of nested data, by where they are; None, which is unknown, as -1."""
    if not isinstance(found, dict | list):
        return {name: -1 if found is None else found}
    items = found.items() if isinstance(found, dict) else enumerate(found)
    return {k: v for key, one in items for k, v in numbers(one, f"{name}/{key}").items()}


@pytest.mark.parametrize(("settings", "count"), [({}, 3 + 10), ({"max_batches": 1}, 1 + 3)])
def test_two_processes_measure_what_one_does(run, world, tmp_path, settings, count):
    alone = Run(tmp_path / "alone", world)
    (code, log), (codes, logs) = (
        one.session(partial(measuring, **settings), ranks) for one, ranks in ((alone, 1), (run, 2))
    )
    assert code == [0] and codes == [0, 0]
    assert len(log.of("measured")) == count and log.of("measured") == logs.of("measured")
    wanted, found = alone.json("report.json"), run.json("report.json")
    for part in ("video", "before", "after", "landing"):
        assert numbers(found[part]) == pytest.approx(numbers(wanted[part]), rel=1e-6)
    assert wanted["before"]["stat"] != pytest.approx(wanted["after"]["stat"], rel=1e-3)


def test_what_was_measured_before_fitting_is_not_measured_again(run):
    assert run.session(measuring)[0] == [0]
    first = run.json("report.json")
    again = partial(measuring, checkpoint=run.folder / "1.ckpt")
    codes, log = run.session(again)
    assert codes == [0] and log.of("measured") == []
    assert run.json("report.json") == first
    assert len(run.session(partial(again, max_batches=1))[1].of("measured")) == 1 + 3


@pytest.mark.slow
def test_measuring_stops_when_asked_to(run):
    assert run.session(partial(measuring, stopped=True))[0] == [PREEMPTED]
    assert list(run.folder.glob("*")) == []
