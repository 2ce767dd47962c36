"""Workers that hang, die or meet a vanished disk end in one message, and never outlive it."""

import ctypes
import errno
import faulthandler
import gc
import itertools
import multiprocessing
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from datamodules.loading.loader import Loader, SampleDataset, collate_or_error
from datamodules.loading.reading import ReadClip, ReadEpisode, collate
from datamodules.processes import Reader
from datamodules.samples import BadSample, Clip, Episode, EpisodeMedia, Frames, Streams
from tests.processes import PATIENCE_S, begin, ended
from vlynx_pl.io.errors import UserError

SIZE = (4, 6)
CLIP = r"clip 2 \(/data/2\.mp4\): "


def frames(count: int = 2) -> torch.Tensor:
    return torch.zeros(count, 3, *SIZE, dtype=torch.uint8)


def read_after(meddle) -> torch.Tensor:
    meddle()
    return frames()


def nothing() -> None:
    pass


def loader(meddle, workers=1, batches=((0,), (1,), (2,), (3,)), timeout=60.0, **options) -> Loader:
    """Four clips, the third of which is read by ``meddle`` first."""
    reads = [frames, frames, partial(read_after, meddle), frames]
    clips = [Clip(f"clip {i}", read, (Path(f"/data/{i}.mp4"),)) for i, read in enumerate(reads)]
    return Loader(
        SampleDataset(clips, ReadClip(SIZE)),
        batch_sampler=[list(batch) for batch in batches],
        num_workers=workers,
        collate_fn=partial(collate_or_error, partial(collate, frame_size=SIZE)),
        persistent_workers=workers > 0,
        timeout=timeout if workers else 0,
        **options,
    )


@pytest.fixture(autouse=True)
def no_workers_of_earlier_tests():
    gc.collect()  # iterators that an error's traceback held


def names(batches) -> list[str]:
    return [name for batch in batches for name in batch["clips"]]


def fault(batches) -> str:
    """What reading ends in, when all processes are gone."""
    with pytest.raises(UserError) as caught:
        list(batches)
    assert not multiprocessing.active_children()
    return str(caught.value)


def hang_with_all_that_python_has():
    ctypes.PyDLL(None).pause()  # keeps the interpreter's lock, as a library may


def hang(begun, end):
    begun.touch()
    end()


def looks(monkeypatch, look) -> None:
    """Call ``look(event)`` whenever workers are looked at, before it is said what they do."""

    class Looked(threading.Event):
        def wait(self, timeout=None):
            look(self)
            return super().wait(timeout)

    monkeypatch.setattr("datamodules.loading.watching.Event", Looked)


def wait_for(file, event=None) -> None:
    while not file.exists() and not (event and event.is_set()):
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("end", "workers"),
    [
        (partial(time.sleep, 2 * PATIENCE_S), 2),
        pytest.param(hang_with_all_that_python_has, 1, marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_hangs_is_named_with_its_clip(end, workers, tmp_path, monkeypatch):
    begun = tmp_path / "begun"
    looks(monkeypatch, partial(wait_for, begun))
    said = fault(loader(partial(hang, begun, end), workers, timeout=0.5))
    assert said.startswith(
        "clip 2 (/data/2.mp4): a worker has been reading it for 0.5 s and finds no end. Look "
        "whether its disk answers, check the file with vlynx check"
    )
    assert "data.num_workers=0" in said and "data.timeout" in said


def read_until_looked_at(folder):
    number = len(list(folder.glob("begun*")))
    (folder / f"begun{number}").touch()
    wait_for(folder / f"looked{number}")


def test_many_slow_clips_are_no_hang(tmp_path, monkeypatch):
    numbers = itertools.count()

    def look(event):
        if (number := next(numbers)) == 5:
            wait_for(tmp_path / "never", event)
        wait_for(tmp_path / f"begun{number}", event)
        (tmp_path / f"looked{number}").touch()

    looks(monkeypatch, look)
    slow = loader(partial(read_until_looked_at, tmp_path), batches=[[2] * 5], timeout=0.4)
    assert names(slow) == ["clip 2"] * 5


def test_a_job_that_was_suspended_has_not_hung(tmp_path, monkeypatch):
    clock, numbers = time.monotonic, itertools.count()

    def look(event):
        if next(numbers) == 0:
            wait_for(tmp_path / "begun0", event)
            monkeypatch.setattr(time, "monotonic", lambda: clock() + 1000)
        else:
            (tmp_path / "looked0").touch()

    looks(monkeypatch, look)
    assert names(loader(partial(read_until_looked_at, tmp_path), batches=[[2]])) == ["clip 2"]


def end_by(number: int) -> None:
    faulthandler.disable()
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("end", "how", "remedy"),
    [
        (partial(end_by, signal.SIGKILL), "killed by SIGKILL", "Memory has .*lower data.num_work"),
        (partial(end_by, signal.SIGSEGV), "killed by SIGSEGV", "breaks the library .*vlynx check"),
        (partial(end_by, signal.SIGBUS), "killed by SIGBUS", "/dev/shm .*too small.*--shm-size"),
        (partial(end_by, signal.SIGRTMIN + 3), "killed by signal 37", "breaks the library"),
        (partial(os._exit, 0), "ended with exit code 0", "breaks the library"),
    ],
)
def test_a_worker_that_dies_is_named_with_its_clip(end, how, remedy):
    said = fault(loader(end))
    assert re.match(
        rf"{CLIP}its worker (was )?{how}\. .*{remedy}.*run the same command again", said
    )


def test_training_is_not_interrupted_by_a_death_but_told_of_it_at_the_next_batch():
    batches = iter(loader(nothing))
    next(batches)
    [worker] = multiprocessing.active_children()
    worker.kill()
    worker.join()  # torch would interrupt here
    assert "a worker that was reading nothing was killed by SIGKILL" in fault(batches)


def stop_after(file) -> None:
    wait_for(file)
    end_by(signal.SIGSTOP)


def test_a_worker_that_dies_amid_a_long_message_is_told(tmp_path, monkeypatch):
    slow = loader(partial(stop_after, tmp_path / "go"))
    clips = slow.dataset.items
    clips[1] = Clip(1_000_000 * "x", clips[1].read)
    batches = iter(slow)
    next(batches)
    [worker] = multiprocessing.active_children()
    while not slow._iterator._worker_result_queue._reader.poll():
        time.sleep(0.005)  # until clip 1 is on its way and fills the pipe
    (tmp_path / "go").touch()
    while Path("/proc", str(worker.pid), "stat").read_text().split()[2] != "T":
        time.sleep(0.005)
    looks(monkeypatch, lambda _: worker.kill())  # when the other half is waited for
    assert "clip 2 (/data/2.mp4): its worker was killed by SIGKILL" in fault(batches)


def test_what_ends_a_job_leaves_its_workers_alone():
    batches = iter(loader(nothing))
    first = next(batches)
    [worker] = multiprocessing.active_children()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(worker.pid, number)
    assert names([first, *batches]) == [f"clip {i}" for i in range(4)]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT}


held = []


def hold_batches() -> None:
    held.append(iter(loader(nothing)))
    next(held[0])


@pytest.mark.slow
def test_a_child_of_multiprocessing_ends_though_it_holds_workers():
    """As a rank of ddp_spawn does."""
    assert ended(begin(hold_batches)) == [0]


def die_once(died) -> None:
    if not died.exists():
        died.touch()
        end_by(signal.SIGKILL)


def test_after_a_fault_one_can_try_again(tmp_path):
    batches = loader(partial(die_once, tmp_path / "died"))
    assert "SIGKILL" in fault(batches)
    for _ in range(2):
        assert names(batches) == [f"clip {i}" for i in range(4)]


@pytest.mark.slow
def test_a_worker_that_cannot_be_killed_does_not_keep_the_process(tmp_path, monkeypatch):
    """As one that waits for a disk."""
    monkeypatch.setattr("datamodules.loading.watching._PATIENCE", 0.1)
    monkeypatch.setattr(Reader, "kill", lambda self: os.kill(self.pid, signal.SIGTERM))
    looks(monkeypatch, lambda event: wait_for(tmp_path / "begun", event))
    forever = partial(hang, tmp_path / "begun", partial(time.sleep, 2 * PATIENCE_S))
    batches = iter(loader(forever, timeout=0.5))
    names([next(batches)])
    [worker] = multiprocessing.active_children()
    try:
        assert "finds no end" in fault(batches)
        assert worker.is_alive()
    finally:
        os.kill(worker.pid, signal.SIGKILL)


LEAVE = """
import time
from functools import partial
from tests.datamodules.test_worker_faults import loader
first = iter(loader(partial(time.sleep, 10_000), workers=2))
next(first)
kept = loader(partial(time.sleep, 10_000), workers=2, timeout=1)
try:
    list(kept)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_process_with_workers_that_hang_can_leave():
    command = [sys.executable, "-c", LEAVE]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert "finds no end" in said.stdout and not said.stderr


def fail(error: Exception) -> None:
    raise error


def read_badly(path: str, error: OSError) -> None:
    try:
        raise error
    except OSError as cause:
        raise BadSample(path, "cannot be decoded", "Copy it again") from cause


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("meddle", "message"),
    [
        (
            partial(fail, OSError(errno.ENOTCONN, "Transport endpoint is not connected")),
            CLIP + r"its disk no longer answers \(Transport .*\)\. Mount it again, and run "
            "the same command again: a fit goes on from its last checkpoint$",
        ),
        (
            partial(fail, OSError(errno.ESTALE, "Stale file handle", "/mnt/a.png")),
            r"/mnt/a\.png: its disk no longer answers \(Stale file handle\)\. Mount it again",
        ),
        (
            partial(read_badly, "/mnt/a.png", OSError(errno.EIO, "Input/output error")),
            CLIP + r"its disk no longer answers \(Input/output error\)\. Mount it again",
        ),
        (
            partial(fail, FileNotFoundError(errno.ENOENT, "No such file", "/data/2.png")),
            r"/data/2\.png of clip 2 \(/data/2\.mp4\): can no longer be read \(No such file\)\. "
            "Put it back as it was when the run began, and run the same command again",
        ),
        (
            partial(fail, OSError("cache/a could not be written; free some space")),
            CLIP + "cache/a could not be written; free some space$",
        ),
        (
            partial(fail, MemoryError()),
            CLIP + "there was not enough memory to read it. Ask for more, or lower data.num_worker",
        ),
        (
            partial(fail, BadSample("/nowhere/a/b.png", "is not there", "Put it back", "missing")),
            r"^/nowhere/a/b\.png: is not there\. Put it back\. If its disk is gone: mount it "
            "again, and run the same command again",
        ),
        (
            partial(fail, BadSample("/b.png", "is not there", "Put it back", "missing")),
            r"^/b\.png: is not there\. Put it back$",
        ),
        (partial(fail, UserError("is wrong; mend it")), "^is wrong; mend it$"),
    ],
)
def test_what_the_system_no_longer_gives_is_one_message(meddle, message, workers):
    with pytest.raises(UserError, match=message) as caught:
        list(loader(meddle, workers))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_of_ours_keeps_its_traceback_and_names_the_clip(workers):
    with pytest.raises(KeyError) as caught:
        list(loader(partial(fail, KeyError("planted")), workers))
    told = f"{caught.value}{getattr(caught.value, '__notes__', '')}"
    assert "planted" in told and "while clip 2 (/data/2.mp4) was read" in told
    assert workers == 0 or "in fail" in told


def test_a_mistake_in_a_batch_is_one_message_too():
    clips = [Clip(name, partial(frames, n)) for name, n in (("a", 2), ("b", 3))]
    stack = partial(collate_or_error, partial(collate, frame_size=SIZE))
    batches = Loader(SampleDataset(clips, ReadClip(SIZE)), 2, num_workers=1, collate_fn=stack)
    with pytest.raises(UserError, match=r"^a has 2 frames and b has 3, which make no batch"):
        list(batches)


def take_away_shared_memory() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))


def test_no_room_for_a_batch_in_shared_memory_is_told_and_not_waited_for():
    said = fault_of_a_live_worker(loader(take_away_shared_memory))
    assert said.startswith("a batch of 0.0 MB cannot be handed over (unable to ")
    assert "the shared memory /dev/shm (" in said and "docker run --shm-size=8g" in said
    assert "lower data.num_workers or data.batch_size" in said


def fault_of_a_live_worker(batches) -> str:
    with pytest.raises(UserError) as caught:
        list(batches)
    return str(caught.value)


def test_workers_that_cannot_be_started_are_told_and_none_is_left(monkeypatch):
    begin, begun = forkserver.connect_to_new_process, []

    def begin_once(descriptors):
        if begun:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        begun.append(True)
        return begin(descriptors)

    monkeypatch.setattr(forkserver, "connect_to_new_process", begin_once)
    said = fault(loader(nothing, workers=2))
    assert said.startswith(
        "data.num_workers=2: they cannot be started ([Errno 11] Resource temporarily unavailable)."
        " Lower it, or raise the limits of processes (ulimit -u)"
    )


def test_no_shared_memory_for_the_workers_at_all(monkeypatch):
    def fail_to_share(_) -> None:
        raise RuntimeError("unable to open shared memory object </torch_1> (30)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail_to_share)
    said = fault(loader(nothing))
    assert "cannot be started (unable to open shared memory object" in said and "/dev/shm" in said


def read_in_another_process() -> torch.Tensor:
    if multiprocessing.parent_process() is not None:
        end_by(signal.SIGKILL)
    return frames()


def test_a_worker_that_dies_is_named_with_its_episode():
    episode = Episode("scene0000_00", {}, ())
    streams = Streams(read_streams, (Path("/data/a/1.png"), Path("/data/a/2/2.png")))
    batches = Loader(
        SampleDataset([EpisodeMedia(episode, streams)], ReadEpisode(SIZE)),
        batch_sampler=[[0]],
        num_workers=1,
        collate_fn=partial(collate_or_error, list),
    )
    said = fault(batches)
    assert said.startswith("scene0000_00 (2 files in /data/a): its worker was killed by SIGKILL")


def read_streams() -> dict[str, Frames]:
    return {"video": Frames(read_in_another_process(), (0.0, 1.0))}


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_may_be_empty(workers):
    given = list(loader(nothing, workers, batches=[[0, 2], [], [3]]))
    assert [len(batch["frames"]) for batch in given] == [2, 0, 1]
    assert names(given) == ["clip 0", "clip 2", "clip 3"]


def test_faults_travel_between_processes_whole():
    bad = BadSample("/a", "is bad", "Mend it", "silent")
    assert str(pickle.loads(pickle.dumps(bad))) == str(bad)
