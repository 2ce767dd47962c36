"""A guidance that fits is not computed again, ranks share the pass, a stopped one starts again."""

import signal
from dataclasses import replace

import pytest
import torch
from lightning import LightningDataModule
from torch.testing import assert_close

from callbacks import ReferenceGuidance
from tests.conftest import MINIATURE, quiet_trainer
from tests.processes import meet, together
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import load_backbone
from vlynx_pl.guidance import InterfaceGuidance
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import PREEMPTED, note_signals

TENSORS = ("keys", "values", "token_mean", "token_var")
COUNT = 7
ALL = list(range(COUNT))
LENGTHS = [1 + position % 2 for position in range(COUNT)]


class Videos(LightningDataModule):
    """Reference videos of noise; notes what is read, and sends a signal while one is read."""

    def __init__(self, log, stop_at=None, count=COUNT, frames=20):
        super().__init__()
        self.log, self.stop_at, self.count = log, stop_at, count
        self.preprocessing = {"frames": frames, "frame_size": (64, 64)}

    def reference_names(self):
        return [f"room{position}/0,20" for position in range(self.count)]

    def reference_dataloader(self, positions):
        return map(self.read, positions)

    def read(self, position):
        with self.log.open("a") as log:
            log.write(f"{position} ")
        if position == self.stop_at:
            signal.raise_signal(signal.SIGUSR1)
        generator = torch.Generator().manual_seed(position)
        shape = (1, LENGTHS[position % COUNT], 3, 64, 64)
        return {"frames": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)}

    def train_dataloader(self):
        return []


class Run:
    """Sessions in one folder."""

    def __init__(self, folder, module):
        self.folder, self.module = folder, module
        self.log = folder.with_suffix(".read")
        self.path = folder / "guidance.safetensors"

    def session(self, ranks=1, fast=False, stop_at=None, count=COUNT, frames=20, **settings):
        """Fit without a step; return the module's guidance and the positions read for it."""
        self.log.write_text("")
        trainer = quiet_trainer(
            self.folder,
            ReferenceGuidance(**settings),
            devices=ranks,
            strategy="ddp" if ranks > 1 else "auto",
            limit_train_batches=0,
            fast_dev_run=fast,
        )
        trainer.fit(self.module, datamodule=Videos(self.log, stop_at, count, frames))
        return self.module.guidance, self.read()

    def read(self):
        return sorted(map(int, self.log.read_text().split()))

    def processes(self, ranks=2, **arguments):
        """A session of several processes; return their exit codes and the positions read."""
        meeting = self.folder.with_suffix(f".meeting{len(list(self.folder.parent.iterdir()))}")
        codes = together(of_a_rank, ranks, ranks, self.folder, meeting, arguments)
        return codes, self.read()

    @property
    def guidance(self):
        return InterfaceGuidance.load(self.path)


def of_a_rank(rank, ranks, folder, meeting, arguments):
    note_signals()
    if ranks > 1:
        meet(rank, ranks, meeting)
    guidance, _ = Run(folder, new_module()).session(ranks, **arguments)
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
    """The guidance of a pass that was not disturbed."""
    guidance, read = Run(tmp_path_factory.mktemp("whole") / "run", module).session()
    assert read == ALL
    return guidance


def same(found, wanted):
    assert found.source == wanted.source
    assert (found.num_frames, found.num_videos) == (wanted.num_frames, wanted.num_videos)
    return all(torch.equal(getattr(found, name), getattr(wanted, name)) for name in TENSORS)


@pytest.mark.parametrize(("ranks", "stop_at"), [(1, 2), (2, 2), (2, 3)])
def test_a_stopped_pass_starts_again_and_gives_the_same(run, whole, ranks, stop_at):
    codes, read = run.processes(ranks, stop_at=stop_at)
    # All processes stop together, and only the first ends with the code.
    assert codes == [PREEMPTED, 0][:ranks] and read == ALL[: 3 if ranks == 1 else 4]
    assert not list(run.folder.glob("*"))
    codes, read = run.processes(ranks)
    assert codes == [0] * ranks and read == ALL, "each video is read by one process"
    assert (run.guidance.num_frames, run.guidance.num_videos) == (sum(LENGTHS), COUNT)
    for name in TENSORS:
        assert_close(getattr(run.guidance, name), getattr(whole, name), atol=1e-7, rtol=1e-6)
    for rank in range(ranks):
        mean = torch.load(run.folder.with_suffix(f".of{rank}"))
        assert torch.equal(mean, run.guidance.token_mean), "all ranks have the same"


def test_a_process_without_a_video_waits_for_the_others(run):
    codes, read = run.processes(count=1)
    assert codes == [0, 0] and read == [0]
    assert run.guidance.num_videos == 1 and run.guidance.keys.isfinite().all()


def test_a_guidance_in_the_run_folder_that_fits_is_used_and_no_video_is_read(run, whole):
    first, _ = run.session()
    assert same(first, whole)
    written = run.path.stat().st_mtime_ns
    again, read = run.session()
    assert read == [] and same(again, first)
    assert run.path.stat().st_mtime_ns == written
    assert run.processes() == ([0, 0], [])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"frames": 8}, 'its preprocessing is {"frame_size": [64, 64], "frames": 20}, here it is'),
        ({"max_batches": 3}, "its clip 4 is room3/0,20, here it is none"),
    ],
)
def test_a_guidance_in_the_run_folder_that_does_not_fit_is_computed_anew(
    run, caplog, changed, reason
):
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
    assert read == ALL and "its fingerprint is" in caplog.text


def cut_off(path):
    path.write_bytes(path.read_bytes()[:1000])


def with_nans(path):
    guidance = InterfaceGuidance.load(path)
    replace(guidance, keys=guidance.keys * float("nan")).save(path)


@pytest.mark.parametrize("damage", [cut_off, with_nans])
def test_a_damaged_guidance_in_the_run_folder_is_computed_anew(run, whole, caplog, damage):
    run.session()
    damage(run.path)
    with caplog.at_level("INFO"):
        guidance, read = run.session()
    assert f"{run.path} does not fit this run and is computed anew" in caplog.text
    assert read == ALL and same(guidance, whole) and same(run.guidance, whole)


def test_a_given_guidance_may_be_of_any_videos(run, tmp_path, module):
    other = Run(tmp_path / "other", module)
    other.session(frames=8, max_batches=2)
    guidance, read = run.session(path=str(other.path))
    assert read == [] and guidance.num_videos == 2 and run.guidance.num_videos == 2


def test_a_fast_dev_run_reads_one_video_and_leaves_no_files(run):
    guidance, read = run.session(fast=True)
    assert read == [0] and guidance.num_videos == 1
    assert not run.folder.exists()


@pytest.fixture
def floors(module, monkeypatch):
    """The attention floors that the module, whose objective wants one, was given."""
    given = []
    monkeypatch.setattr(module.objective, "attn_floor", True)
    monkeypatch.setattr(
        InterfaceAlignment, "use_attention_floor", lambda _, gaps: given.append(gaps)
    )
    return given


@torch.no_grad()
def direct_gaps(run, guidance, count):
    """The mean gaps, measured by another module, one video after the other."""
    module = new_module()
    module.use_guidance(guidance)
    videos = Videos(run.log, count=count)
    gaps = [module.encode(videos.read(i)["frames"], None).attention_gaps for i in range(count)]
    return sum(gaps) / count


def test_the_floor_is_the_gaps_of_videos_and_a_resumed_run_measures_the_same(run, floors):
    guidance, read = run.session()
    assert read == sorted(ALL * 2), "once for the guidance, once for the gaps"
    with torch.no_grad():  # the adapter has no part in it
        for parameter in run.module.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    run.module.train()
    assert run.session()[1] == ALL, "the guidance is there"
    first, again = floors
    assert torch.equal(first, again) and not first.requires_grad
    assert_close(first, direct_gaps(run, guidance, COUNT))


def test_the_floor_is_of_the_first_videos_whatever_guidance_is_given(run, tmp_path, whole, floors):
    path = tmp_path / "given.safetensors"
    whole.save(path)
    guidance, read = run.session(path=str(path), count=40)
    assert read == list(range(32))
    assert_close(floors, [direct_gaps(run, guidance, 32)])
    with pytest.raises(UserError, match="attn_floor=true needs reference videos"):
        run.session(path=str(path), count=0)
