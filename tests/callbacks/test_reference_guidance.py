"""A guidance pass is not repeated where it fits, ranks share it, and a stopped one starts again."""

import signal
from functools import partial

import pytest
import torch
from lightning import LightningDataModule, Trainer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from callbacks import ReferenceGuidance
from tests.conftest import MINIATURE
from tests.processes import meet, together
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import load_backbone
from vlynx_pl.guidance import GuidanceError, InterfaceGuidance
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import PREEMPTED, Interrupted, forget_signals, note_signals

TENSORS = ("keys", "values", "token_mean", "token_var")
COUNT = 7
LENGTHS = [1 + position % 2 for position in range(COUNT)]


class Videos(LightningDataModule):
    """Noise in the place of reference videos; notes what is read, and lets things happen then."""

    def __init__(self, log, events=None, count=COUNT, frames=20):
        super().__init__()
        self.log, self.events, self.count = log, events or {}, count
        self.preprocessing = {"frames": frames, "frame_size": (64, 64)}

    def reference_names(self):
        return [f"room{position}/0,20" for position in range(self.count)]

    def reference_dataloader(self, positions):
        return map(self.read, positions)

    def read(self, position):
        with self.log.open("a") as log:
            log.write(f"{position} ")
        self.events.get(position, lambda: None)()
        generator = torch.Generator().manual_seed(position)
        shape = (1, LENGTHS[position % COUNT], 3, 64, 64)
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return {"frames": frames, "clips": self.reference_names()[position]}

    def train_dataloader(self):
        return []


class Run:
    """Sessions in one folder."""

    def __init__(self, folder, module):
        self.folder, self.module = folder, module
        self.log = folder.with_suffix(".read")

    def session(self, events=None, ranks=1, trial=False, count=COUNT, frames=20, **settings):
        """Go on until the guidance is there; gives it and the positions read for it."""
        self.log.write_text("")
        trainer = Trainer(
            accelerator="cpu",
            devices=ranks,
            strategy="ddp" if ranks > 1 else "auto",
            callbacks=[ReferenceGuidance(**settings)],
            limit_train_batches=0,
            default_root_dir=self.folder,
            fast_dev_run=trial,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self.module, datamodule=Videos(self.log, events, count, frames))
        return self.module.guidance, self.read()

    def read(self):
        return sorted(map(int, self.log.read_text().split()))

    def two_ranks(self, **arguments):
        """A session of two processes; gives their exit codes and the positions read."""
        meeting = self.folder.with_suffix(f".meet{len(list(self.folder.parent.iterdir()))}")
        return together(of_a_rank, 2, self.folder, meeting, arguments), self.read()

    @property
    def guidance(self):
        return InterfaceGuidance.load(self.folder / "guidance.safetensors")


def of_a_rank(rank, folder, meeting, arguments):
    note_signals()
    meet(rank, 2, meeting)
    guidance, _ = Run(folder, new_module()).session(ranks=2, **arguments)
    assert guidance.num_videos == arguments.get("count", COUNT)
    torch.save(guidance.token_mean, folder.with_suffix(f".of{rank}"))


def new_module():
    return InterfaceAlignment(load_backbone(str(MINIATURE), "float32"), "3d", lora=Lora(4, 8))


@pytest.fixture(scope="module")
def module():
    return new_module()


@pytest.fixture
def run(tmp_path, module):
    return Run(tmp_path / "run", module)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, module):
    """The guidance of a pass that nothing disturbed."""
    guidance, read = Run(tmp_path_factory.mktemp("whole") / "run", module).session()
    assert read == list(range(COUNT))
    return guidance


@pytest.fixture
def signals():
    """Signals are noted, as in a run."""
    wanted = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in wanted]
    note_signals()
    yield
    for number, handler in zip(wanted, before, strict=True):
        signal.signal(number, handler)
    forget_signals()


def fail():
    raise RuntimeError("killed")


def same(found, wanted):
    assert found.source == wanted.source
    assert (found.num_frames, found.num_videos) == (wanted.num_frames, wanted.num_videos)
    return all(torch.equal(getattr(found, name), getattr(wanted, name)) for name in TENSORS)


def close(found, wanted):
    assert found.source == wanted.source
    assert (found.num_frames, found.num_videos) == (sum(LENGTHS), COUNT)
    for name in TENSORS:
        assert_close(getattr(found, name), getattr(wanted, name), atol=1e-7, rtol=1e-6)


def test_a_stopped_pass_starts_again_and_gives_the_same(run, signals, whole):
    ask = partial(signal.raise_signal, signal.SIGUSR1)
    with pytest.raises(Interrupted, match="Run the same command again to go on") as stop:
        run.session({2: ask})
    assert stop.value.code == PREEMPTED and run.read() == [0, 1, 2]
    forget_signals()
    guidance, read = run.session()
    assert read == list(range(COUNT))
    assert same(guidance, whole) and same(run.guidance, whole)
    assert [path.name for path in run.folder.iterdir()] == ["guidance.safetensors"]


def test_a_killed_pass_leaves_nothing_that_is_used(run, whole):
    with pytest.raises(RuntimeError, match="killed"):
        run.session({5: fail})
    guidance, read = run.session()
    assert read == list(range(COUNT)) and same(guidance, whole)


def test_two_processes_give_the_guidance_of_one_and_each_reads_its_own(run, whole):
    codes, read = run.two_ranks()
    assert codes == [0, 0] and read == list(range(COUNT))
    close(run.guidance, whole)
    for rank in range(2):
        mean = torch.load(run.folder.with_suffix(f".of{rank}"))
        assert torch.equal(mean, run.guidance.token_mean), "all ranks have the same"


@pytest.mark.parametrize("position", [2, 3])
def test_when_one_process_is_asked_to_stop_both_stop_and_both_start_again(run, position):
    ask = partial(signal.raise_signal, signal.SIGUSR1)
    codes, read = run.two_ranks(events={position: ask})
    assert codes == [PREEMPTED, 0] and read == [0, 1, 2, 3]
    codes, read = run.two_ranks()
    assert codes == [0, 0] and read == list(range(COUNT))
    assert run.guidance.num_videos == COUNT


def test_a_process_without_any_video_waits_for_the_others(run):
    codes, read = run.two_ranks(count=1)
    assert codes == [0, 0] and read == [0]
    assert run.guidance.num_videos == 1 and run.guidance.keys.isfinite().all()


def test_a_guidance_of_the_run_that_fits_is_used_and_no_video_is_read(run):
    first, _ = run.session()
    written = (run.folder / "guidance.safetensors").stat().st_mtime_ns
    again, read = run.session()
    assert read == [] and same(again, first)
    assert (run.folder / "guidance.safetensors").stat().st_mtime_ns == written
    assert run.two_ranks() == ([0, 0], [])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"frames": 8}, 'its preprocessing is {"frame_size": [64, 64], "frames": 20}, here it is'),
        ({"max_batches": 3}, "its clip 4 is room3/0,20, here it is none"),
    ],
)
def test_a_guidance_of_the_run_that_does_not_fit_is_computed_anew(run, caplog, changed, reason):
    run.session()
    with caplog.at_level("INFO"):
        _, read = run.session(**changed)
    assert read == list(range(changed.get("max_batches", COUNT)))
    assert "guidance.safetensors does not fit this run and is computed anew" in caplog.text
    assert reason in caplog.text
    assert run.session(**changed)[1] == []


def test_a_guidance_of_another_backbone_is_computed_anew(run, caplog):
    run.session()
    other = load_backbone(str(MINIATURE), "float32")
    with torch.no_grad():
        other.newline[0] += 1
    with caplog.at_level("INFO"):
        _, read = Run(run.folder, InterfaceAlignment(other, "3d", lora=Lora(4, 8))).session()
    assert read == list(range(COUNT)) and "its fingerprint is" in caplog.text


def of_nans(path):
    with safe_open(path, "pt") as file:
        notes = file.metadata()
    tensors = load_file(path)
    save_file(tensors | {"keys": tensors["keys"] * float("nan")}, path, notes)


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(path.read_bytes()[:1000]), of_nans]
)
def test_a_damaged_guidance_of_the_run_is_computed_anew(run, whole, caplog, damage):
    run.session()
    path = run.folder / "guidance.safetensors"
    damage(path)
    with caplog.at_level("INFO"):
        guidance, read = run.session()
    assert f"{path} does not fit this run and is computed anew" in caplog.text
    assert read == list(range(COUNT)) and same(guidance, whole) and same(run.guidance, whole)


def test_a_given_guidance_may_be_of_any_videos(run, tmp_path, module):
    Run(tmp_path / "other", module).session(frames=8, max_batches=2)
    path = tmp_path / "other" / "guidance.safetensors"
    guidance, read = run.session(path=str(path))
    assert read == [] and guidance.num_videos == 2 and run.guidance.num_videos == 2


def test_no_reference_video_is_an_error(run):
    with pytest.raises(GuidanceError, match="no reference video was seen"):
        run.session(count=0)


def test_a_fast_dev_run_reads_one_video_and_leaves_no_files(run):
    guidance, read = run.session(trial=True)
    assert read == [0] and guidance.num_videos == 1
    assert not run.folder.exists()


@pytest.fixture
def floors(module, monkeypatch):
    """A module that wants a floor of attention gaps; gives those it was given."""
    given = []
    monkeypatch.setattr(module.objective, "attn_floor", True)
    monkeypatch.setattr(
        InterfaceAlignment, "use_attention_floor", lambda _, gaps: given.append(gaps)
    )
    return given


@torch.no_grad()
def direct_gaps(run, guidance, count):
    """Measured by a module of its own, one video after the other."""
    module = new_module()
    module.use_guidance(guidance)
    videos = Videos(run.log, count=count)
    gaps = [module.encode(videos.read(i)["frames"], None).attention_gaps for i in range(count)]
    return sum(gaps) / count


def test_a_floor_is_the_gaps_of_videos_and_a_resumed_run_measures_the_same(run, floors):
    guidance, read = run.session()
    assert read == sorted([*range(COUNT)] * 2), "once for the guidance, once for the gaps"
    with torch.no_grad():  # the adapter has no part in it
        for parameter in run.module.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    run.module.train()
    _, read = run.session()
    assert read == list(range(COUNT)), "the guidance is there"
    first, again = floors
    assert torch.equal(first, again) and not first.requires_grad
    assert_close(first, direct_gaps(run, guidance, COUNT))


def test_a_floor_is_of_the_first_videos_alone_whatever_guidance_is_given(run, whole, floors):
    path = run.folder.with_suffix(".safetensors")
    whole.save(path)
    guidance, read = run.session(path=str(path), count=40)
    assert read == list(range(32))
    assert_close(floors, [direct_gaps(run, guidance, 32)])


def test_a_floor_needs_videos(run, whole, floors):
    path = run.folder.with_suffix(".safetensors")
    whole.save(path)
    with pytest.raises(UserError, match="attn_floor=true needs reference videos"):
        run.session(path=str(path), count=0)


def test_without_a_floor_nothing_is_measured(run, floors, module, monkeypatch):
    monkeypatch.setattr(module.objective, "attn_floor", False)
    assert run.session()[1] == list(range(COUNT)) and floors == []
