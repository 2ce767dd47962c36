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
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback

from callbacks import AlignmentReport, AnswerScores, RunCheckpoint, interruptible_barrier
from datamodules.benchmarks import AVUT
from datamodules.loading.order import Batches
from datamodules.samples import Episode, Question
from tests.conftest import MINIATURE
from tests.processes import meet, together
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import load_backbone
from vlynx_pl.guidance import estimate_guidance
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import PREEMPTED, note_signals
from vlynx_pl.tuning import InstructionTuning

ROOMS = 5
BATCH = 3


def noise(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3, 64, 64), dtype=torch.uint8, generator=generator)


def note(path, name):
    with path.open("a") as log:
        log.write(f"{name}\n")


def noted(path):
    return sorted(path.read_text().split()) if path.exists() else []


class Read(list):
    """Items that are read when they are asked for."""

    def __init__(self, names, read):
        super().__init__(names)
        self.read = read

    def __getitem__(self, index):
        return self.read(super().__getitem__(index))


class Rooms(LightningDataModule):
    """Episodes of noise, shared by ranks as the contract of the loaders says, and a broken one."""

    benchmark = SimpleNamespace(rules=lambda: AVUT.protocol)
    test_split = "test"
    preprocessing = {"frames": 2}  # noqa: RUF012
    drawing = {}  # noqa: RUF012

    def __init__(self, log):
        super().__init__()
        self.log, self.unread = log, set()
        # Not in the order of their names, nor of their questions' ids.
        self.names = [f"room{i}" for i in (3, 1, 4, 0, 2)]

    def asked(self, name, count=2):
        labels = {"task": "Audio"}
        return tuple(
            Question(f"{name}-{9 - i}", f"Which is {i}?", ("A",), labels=labels)
            for i in range(count)
        )

    def episodes(self, part):
        return [Episode(name, {}, self.asked(name)) for name in self.names]

    def failed_episodes(self, part):
        return [Episode("broken", {}, self.asked("broken", 1))]

    def skip_streams_for(self, names):
        self.unread = set(names)

    def loaded(self, part, names):
        note(self.log, f"shown-{part}-{len(names)}")
        return {}

    def read(self, name, unread=frozenset()):
        loaded = {"name": name, "streams": {}, "tokens": {}, "times": {}}
        if name not in unread:
            note(self.log, f"read-{name}")
            loaded["streams"] = {"video": noise(int(name[-1]), 2)}
            loaded["times"] = {"video": (0.0, float(name[-1]))}
        return loaded | {"questions": self.asked(name)}

    def loader(self, names, read, batch_size=BATCH, **options):
        trainer = self.trainer
        share = Batches(
            len(names), batch_size, rank=trainer.global_rank, ranks=trainer.world_size, **options
        )
        return torch.utils.data.DataLoader(
            Read(names, read), batch_sampler=share, collate_fn=self.gather
        )

    def gather(self, episodes):
        return episodes

    def train_dataloader(self):
        return self.loader(["room0", "room1"], self.read)

    def val_dataloader(self):
        return self.loader(self.names, partial(self.read, unread=frozenset(self.unread)))

    test_dataloader = val_dataloader

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch


class Asking(InstructionTuning):
    """Notes what it is asked, whether under autocast, and lets things happen then."""

    def __init__(self, backbone, log, events=None, max_new_tokens=3, seed=0):
        super().__init__(
            backbone, "avut", lora=Lora(2, 16), max_new_tokens=max_new_tokens, learning_rate=0.0
        )
        self.log_path, self.events = log, events or {}
        torch.manual_seed(seed)
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.3)

    def answers(self, episode):
        note(self.log_path, f"{episode['name']}-{torch.is_autocast_enabled('cpu')}")
        said = super().answers(episode)
        self.events.get(episode["name"], lambda: None)()
        return said


class Clips(Rooms):
    """Clips of noise: held-out ones in batches, the last of them uneven, and reference videos."""

    def reference_names(self):
        return [f"video{i}" for i in range(5)]

    def reference_dataloader(self, positions=None):
        names = [self.reference_names()[position] for position in positions]
        for name in names:
            note(self.log, name)
        return [{"frames": noise(20 + int(name[-1]), 1, 1 + int(name[-1]) % 2)} for name in names]

    def report(self):
        return {}

    def clip(self, name):
        note(self.log, name)
        return noise(int(name[-1]), 2)

    def gather(self, clips):
        return {"frames": torch.stack(clips) if clips else torch.empty(0, 1, 3, 64, 64)}

    def train_dataloader(self):
        return self.loader(self.names[:2], self.clip, 2)

    def val_dataloader(self):
        return self.loader([*self.names, "room5", "room6"], self.clip)


class Run:
    """Sessions in one folder."""

    def __init__(self, folder):
        self.folder, self.meetings = folder, 0

    @property
    def backbone(self):
        """Loaded by each process for itself."""
        return load_backbone(str(MINIATURE), "float32")

    def trainer(self, ranks, *callbacks, **options):
        return Trainer(
            accelerator="cpu",
            devices=ranks,
            strategy="ddp" if ranks > 1 else "auto",
            callbacks=[RunCheckpoint(), *callbacks],
            default_root_dir=self.folder,
            use_distributed_sampler=False,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        )

    def session(self, work, ranks=1):
        """Run processes to their end; gives their exit codes, and what was asked and read."""
        log = self.folder.with_suffix(f".log{self.meetings}")
        place = self.folder.with_suffix(f".meet{self.meetings}")
        self.meetings += 1
        return together(self._of_a_rank, ranks, work, ranks, place, log), noted(log)

    def _of_a_rank(self, rank, work, ranks, place, log):
        note_signals()
        for name in ("answer_scores.draw_answers", "alignment_report.save_figure"):
            target, function = name.split(".")
            setattr(import_module(f"callbacks.{target}"), function, lambda *_: None)
        if ranks > 1:
            meet(rank, ranks, place)
        try:
            work(self, rank, ranks, log)
        except UserError as error:
            self.folder.with_suffix(f".said{rank}").write_text(str(error))
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
        return sorted(path.name for path in self.folder.glob("*.unfinished*"))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def examining(run, rank, ranks, log, events=None, **settings):
    """``vlynx test``; what happens is by rank and room."""
    module = Asking(run.backbone, log, (events or {}).get(rank), **settings)
    run.trainer(ranks, AnswerScores()).test(module, Rooms(log), verbose=False)


def fitting(run, rank, ranks, log, events=None):
    module = Asking(run.backbone, log, (events or {}).get(rank))
    trainer = run.trainer(
        ranks, AnswerScores(), max_epochs=1, limit_val_batches=0, precision="bf16-mixed"
    )
    trainer.fit(module, datamodule=Rooms(log))


def stop():
    signal.raise_signal(signal.SIGTERM)


def asked(log):
    return sorted(line.partition("-")[0] for line in log if line.startswith("room"))


EVERY = [f"room{i}" for i in range(ROOMS)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A test by one process that nothing disturbed."""
    run = Run(tmp_path_factory.mktemp("whole") / "run")
    codes, log = run.session(examining)
    assert codes == [0] and asked(log) == EVERY
    return run


def same(run, whole):
    names = ("predictions-test.jsonl", "scores-test.json")
    return all((run.folder / n).read_bytes() == (whole.folder / n).read_bytes() for n in names)


def test_rows_are_in_the_order_of_the_data_and_say_what_they_were_answered_from(whole):
    rows = whole.rows()
    order = [f"room{i}" for i in (3, 1, 4, 0, 2) for _ in range(2)]
    assert [row["clip"] for row in rows] == [*order, "broken"]
    assert [row["id"][-1] for row in rows] == ["9", "8"] * ROOMS + ["9"]
    assert [row["times"] for row in rows[::2]] == [
        *({"video": [0, i]} for i in (3, 1, 4, 0, 2)),
        {},
    ]
    assert len({row["prediction"] for row in rows}) > 2, "else the order would not show"
    scores = whole.json("scores-test.json")
    assert (scores["avut/n_total"], scores["avut/n_failed"]) == (11, 1)
    assert whole.unfinished == []


def test_two_processes_write_the_very_files_of_one(run, whole):
    codes, log = run.session(examining, ranks=2)
    assert codes == [0, 0] and asked(log) == EVERY
    assert same(run, whole) and run.unfinished == []
    assert log.count("shown-test-6") == 1, "one process draws the sheet, of all rooms"


def test_after_fitting_each_process_answers_its_share_in_the_precision_of_the_fit(run, tmp_path):
    runs = {1: Run(tmp_path / "alone"), 2: run}
    for ranks, one in runs.items():
        codes, log = one.session(fitting, ranks)
        assert codes == [0] * ranks and asked(log) == EVERY
        assert {line.split("-")[1] for line in log if line.startswith("room")} == {"True"}
    assert run.rows("val") == runs[1].rows("val")
    assert run.json("scores-val.json") == runs[1].json("scores-val.json")


def test_what_was_answered_is_neither_read_nor_asked_again(run, whole):
    codes, log = run.session(partial(examining, events={0: {"room4": stop}}))
    first = ["room1", "room3", "room4"]  # of the first batch, after which it looked
    assert codes == [PREEMPTED] and asked(log) == first
    assert run.unfinished == ["answers-test.0.unfinished.jsonl"]
    codes, log = run.session(examining)
    assert codes == [0] and asked(log) == ["room0", "room2"]
    assert [line for line in log if line.startswith("read")] == ["read-room0", "read-room2"]
    assert same(run, whole) and run.unfinished == []


def test_another_number_of_processes_goes_on(run, whole):
    codes, _ = run.session(partial(examining, events={0: {"room4": stop}}))
    codes, log = run.session(examining, ranks=2)
    assert codes == [0, 0] and asked(log) == ["room0", "room2"]
    assert same(run, whole) and run.unfinished == []


def stop_when_it_waits():
    interruptible_barrier.time = SimpleNamespace(sleep=lambda _: stop())


def stop_after(file):
    while not file.exists():
        time.sleep(0.05)
    stop()


@pytest.mark.slow
def test_a_process_that_waits_for_one_that_was_stopped_hears_that_it_shall_stop_too(run, whole):
    last = partial(stop_after, run.folder.with_suffix(".ended0"))
    # Rank 0 answers all of its share and waits for rank 1, which has room1 and room2.
    events = {0: {"room0": stop_when_it_waits}, 1: {"room1": last}}
    codes, log = run.session(partial(examining, events=events), 2)
    assert codes == [PREEMPTED, 0] and asked(log) == ["room0", "room1", "room3", "room4"]
    assert len(run.unfinished) == 2
    codes, log = run.session(examining)
    assert codes == [0] and asked(log) == ["room2"]
    assert same(run, whole) and run.unfinished == []


@pytest.mark.slow
def test_a_process_that_waits_for_one_that_ended_says_where_to_look(run):
    codes, _ = run.session(partial(examining, events={1: {"room1": partial(os._exit, 9)}}), 2)
    assert codes == [1, 9]
    said = run.folder.with_suffix(".said0").read_text()
    assert "another process of this run has ended; see what it said" in said
    assert "Every answer so far is in" in said


@pytest.mark.slow
def test_after_a_fit_answering_goes_on_too(run):
    codes, log = run.session(partial(fitting, events={0: {"room4": stop}}))
    assert codes == [PREEMPTED] and run.unfinished == ["answers-val.0.unfinished.jsonl"]
    codes, log = run.session(fitting)
    assert codes == [0] and asked(log) == ["room0", "room2"]
    assert len(run.rows("val")) == 11 and run.unfinished == []


@pytest.mark.slow
def test_when_all_is_answered_there_are_only_scores_to_write(run, whole):
    codes, _ = run.session(partial(examining, events={0: {"room2": stop}}))
    assert codes == [PREEMPTED]
    codes, log = run.session(examining)
    assert codes == [0] and log == ["shown-test-6"] and same(run, whole)


@pytest.mark.parametrize("other", [{"max_new_tokens": 2}, {"seed": 1}])
def test_answers_that_were_made_with_other_settings_are_not_used(run, tmp_path, other):
    run.session(partial(examining, events={0: {"room4": stop}}))
    codes, log = run.session(partial(examining, **other), ranks=2)
    assert codes == [0, 0] and asked(log) == EVERY
    afresh = Run(tmp_path / "afresh")
    afresh.session(partial(examining, **other))
    assert same(run, afresh) and run.unfinished == []


def test_a_question_that_was_changed_or_lacks_an_answer_is_asked_again(run, whole):
    run.session(partial(examining, events={0: {"room4": stop}}))
    kept = run.folder / "answers-test.0.unfinished.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    assert "Which is 1?" in lines[4] and "room1" in lines[4] and "room4" in lines[-1]
    lines[4] = lines[4].replace("Which", "What")
    kept.write_text("".join(lines[:-1]))
    codes, log = run.session(examining)
    assert codes == [0] and asked(log) == ["room0", "room1", "room2", "room4"]
    assert same(run, whole)


def measuring(run, rank, ranks, log, checkpoint=None, **settings):
    torch.manual_seed(0)
    backbone = run.backbone
    module = InterfaceAlignment(backbone, "3d", lora=Lora(2, 4), learning_rate=0.0)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    module.use_guidance(estimate_guidance(backbone, [noise(9, 1, 2)]))

    def save(trainer, _):
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(run.folder / "1.ckpt")

    callbacks = AlignmentReport(**settings), LambdaCallback(on_train_epoch_start=save)
    trainer = run.trainer(ranks, *callbacks, max_epochs=2, limit_val_batches=0)
    trainer.fit(module, datamodule=Clips(log), ckpt_path=checkpoint, weights_only=True)


def stopped(*arguments):
    stop()
    measuring(*arguments)


@pytest.mark.parametrize("settings", [{}, {"max_batches": 2}])
def test_two_processes_measure_what_one_does(run, tmp_path, settings):
    alone = Run(tmp_path / "alone")
    videos = [f"video{i}" for i in range(settings.get("max_batches", 5))]
    for one, ranks in ((alone, 1), (run, 2)):
        codes, log = one.session(partial(measuring, **settings), ranks)
        assert codes == [0] * ranks
        assert [name for name in log if name.startswith("video")] == videos
        assert ("room6" in log) == (not settings), "it is in the third batch"
    wanted, found = alone.json("report.json"), run.json("report.json")
    for when in ("video", "before", "after"):
        for name, figure in wanted[when].items():
            assert found[when][name] == pytest.approx(figure, rel=1e-6), (when, name)
    assert wanted["before"]["stat"] != pytest.approx(wanted["after"]["stat"], rel=1e-3)


def test_what_was_measured_before_fitting_is_not_measured_again(run):
    assert run.session(measuring)[0] == [0]
    first = run.json("report.json")
    again = partial(measuring, checkpoint=run.folder / "1.ckpt")
    codes, log = run.session(again)
    assert codes == [0] and not any(name.startswith("video") for name in log)
    assert log.count("room6") == 1, "it is measured after fitting alone"
    assert run.json("report.json") == first
    assert "video0" in run.session(partial(again, max_batches=2))[1]


@pytest.mark.slow
def test_measuring_stops_when_it_is_asked_to(run):
    assert run.session(stopped)[0] == [PREEMPTED]
    assert list(run.folder.parent.glob("run/*")) == []
