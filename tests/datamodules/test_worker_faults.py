"""Workers that hang, die or lose their disk end in one message, and never outlive the loader."""

import ctypes
import errno
import faulthandler
import gc
import itertools
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from datamodules.loading.loader import Loader, SampleDataset, collate_or_error
from datamodules.loading.reading import ReadClip, collate
from datamodules.loading.worker_errors import Reading
from datamodules.processes import Reader
from datamodules.samples import BadSample, Clip
from tests.processes import PATIENCE_S, begin, ended, wait_until
from vlynx_pl.io.errors import UserError

SIZE = (4, 6)
CLIP = r"clip 2 \(/data/2\.mp4\): "
WORKER = "/data/2.mp4: the worker that was reading clip 2 "


def frames(count: int = 2) -> torch.Tensor:
    return torch.zeros(count, 3, *SIZE, dtype=torch.uint8)


def read_after(act) -> torch.Tensor:
    act()
    return frames()


def nothing() -> None:
    pass


def loader(act, workers=1, batches=((0,), (1,), (2,), (3,)), timeout=60.0) -> Loader:
    """Four clips; before the third is read, ``act`` is called."""
    reads = [frames, frames, partial(read_after, act), frames]
    clips = [Clip(f"clip {i}", read, (Path(f"/data/{i}.mp4"),)) for i, read in enumerate(reads)]
    return Loader(
        SampleDataset(clips, ReadClip(SIZE)),
        batch_sampler=[list(batch) for batch in batches],
        num_workers=workers,
        collate_fn=partial(collate_or_error, partial(collate, frame_size=SIZE)),
        persistent_workers=workers > 0,
        timeout=timeout,
    )


@pytest.fixture(autouse=True)
def no_workers_of_earlier_tests():
    gc.collect()  # iterators that the traceback of an error refers to


def names(batches) -> list[str]:
    return [name for batch in batches for name in batch["clips"]]


def fault(batches) -> str:
    """The error that reading ends in; no process is left then."""
    with pytest.raises(UserError) as caught:
        list(batches)
    assert not multiprocessing.active_children()
    return str(caught.value)


def hang_with_the_interpreter_lock():
    ctypes.PyDLL(None).pause()  # as a library may


def hang(begun, end):
    begun.touch()
    end()


@pytest.mark.parametrize(
    ("end", "workers"),
    [
        (partial(time.sleep, 2 * PATIENCE_S), 2),
        pytest.param(hang_with_the_interpreter_lock, 1, marks=pytest.mark.slow),
    ],
)
def test_the_error_for_a_hanging_worker_names_its_clip(end, workers, tmp_path, on_poll):
    begun = tmp_path / "begun"
    on_poll(lambda _: wait_until(begun.exists))
    message = fault(loader(partial(hang, begun, end), workers, timeout=0.5))
    assert message.startswith(
        f"{WORKER}has not finished in data.timeout=0.5 s. Check whether its disk responds, check "
        "the file with vlynx check"
    )
    assert "data.num_workers=0" in message and message.endswith("from its last checkpoint")


def read_until_polled(folder):
    number = len(list(folder.glob("begun*")))
    (folder / f"begun{number}").touch()
    wait_until((folder / f"polled{number}").exists)


def test_slow_clips_in_a_job_that_was_suspended_are_no_hang(tmp_path, monkeypatch, on_poll):
    clock, numbers = time.monotonic, itertools.count()

    def poll(event):
        number = next(numbers)
        wait_until(lambda: event.is_set() or (tmp_path / f"begun{number}").exists())
        monkeypatch.setattr(time, "monotonic", lambda: clock() + 1000 * number)
        (tmp_path / f"polled{number}").touch()

    on_poll(poll)
    slow = loader(partial(read_until_polled, tmp_path), batches=[[2] * 5], timeout=0.4)
    assert names(slow) == ["clip 2"] * 5


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
        (partial(sys.exit, 3), "ended with exit code 3", "breaks the library"),
    ],
)
def test_the_error_for_a_dead_worker_names_its_clip(end, how, remedy):
    pattern = rf"{WORKER}(was )?{how}\. .*{remedy}.*run the same command again"
    assert re.match(pattern, fault(loader(end)))


def test_the_death_of_an_idle_worker_is_raised_at_the_next_batch():
    made = loader(nothing)
    batches = iter(made)
    next(batches)
    [worker] = multiprocessing.active_children()
    wait_until(lambda: made._iterator._board.tolist() == [[-1, 3]])  # all three are read
    worker.kill()
    worker.join()  # torch would interrupt here
    assert "an idle worker was killed by SIGKILL. Memory has probably run out" in fault(batches)


def stop_after(file) -> None:
    wait_until(file.exists)
    end_by(signal.SIGSTOP)


def test_a_worker_may_die_in_the_middle_of_a_long_message(tmp_path, on_poll):
    slow = loader(partial(stop_after, tmp_path / "go"))
    clips = slow.dataset.items
    clips[1] = Clip(1_000_000 * "x", clips[1].read)
    batches = iter(slow)
    next(batches)
    [worker] = multiprocessing.active_children()
    wait_until(slow._iterator._worker_result_queue._reader.poll)  # clip 1 fills the pipe
    (tmp_path / "go").touch()
    stat = Path("/proc", str(worker.pid), "stat")
    wait_until(lambda: stat.read_text().split()[2] == "T")
    on_poll(lambda _: worker.kill())  # while the other half is awaited
    assert f"{WORKER}was killed by SIGKILL" in fault(batches)


def test_workers_ignore_the_signals_that_end_a_job():
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
def test_a_child_of_multiprocessing_ends_though_it_has_workers():
    """As a rank of ddp_spawn does."""
    assert ended(begin(hold_batches)) == [0]


def die_once(died) -> None:
    if not died.exists():
        died.touch()
        end_by(signal.SIGKILL)


def test_a_loader_can_be_used_again_after_a_fault(tmp_path):
    batches = loader(partial(die_once, tmp_path / "died"))
    assert "SIGKILL" in fault(batches)
    for _ in range(2):
        assert names(batches) == [f"clip {i}" for i in range(4)]


@pytest.mark.slow
def test_a_worker_that_cannot_be_killed_does_not_keep_the_process(tmp_path, monkeypatch, on_poll):
    """As one that waits for a disk."""
    monkeypatch.setattr("datamodules.loading.supervision._KILL_WAIT", 0.1)
    monkeypatch.setattr(Reader, "kill", lambda self: os.kill(self.pid, signal.SIGTERM))
    on_poll(lambda _: wait_until((tmp_path / "begun").exists))
    forever = partial(hang, tmp_path / "begun", partial(time.sleep, 2 * PATIENCE_S))
    batches = iter(loader(forever, timeout=0.5))
    names([next(batches)])
    [worker] = multiprocessing.active_children()
    try:
        assert "has not finished" in fault(batches)
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
def test_a_process_with_hanging_workers_can_exit():
    command = [sys.executable, "-c", LEAVE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert "has not finished" in done.stdout and not done.stderr


def fail(error: Exception) -> None:
    raise error


UNDECODED = BadSample("/mnt/a.png", "cannot be decoded", "Copy it again")
UNDECODED.__cause__ = OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOTCONN, "Transport endpoint is not connected"),
            CLIP + r"its disk no longer responds \(Transport .*\)\. Mount it again, and run "
            "the same command again: a fit continues from its last checkpoint$",
        ),
        (
            OSError(errno.ESTALE, "Stale file handle", "/mnt/a.png"),
            r"/mnt/a\.png: its disk no longer responds \(Stale file handle\)\. Mount it again",
        ),
        (UNDECODED, CLIP + r"its disk no longer responds \(Input/output error\)\. Mount it again"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "/data/2.png"),
            r"/data/2\.png of clip 2 \(/data/2\.mp4\): can no longer be read \(No such file\)\. "
            "Put it back as it was when the run began, and run the same command again",
        ),
        (
            OSError("cache/a could not be written; free some space"),
            CLIP + "cache/a could not be written; free some space$",
        ),
        (
            MemoryError(),
            "^/data/2.mp4: there was not enough memory to read clip 2. Ask for more, lower data.nu",
        ),
        (
            BadSample("/nowhere/a/b.png", "is not there", "Put it back", "missing"),
            r"^/nowhere/a/b\.png: is not there\. Put it back\. If its disk is gone: mount it "
            "again, and run the same command again",
        ),
        (
            BadSample("/b.png", "is not there", "Put it back", "missing"),
            r"^/b\.png: is not there\. Put it back$",
        ),
        (UserError("is wrong; fix it"), "^is wrong; fix it$"),
    ],
)
def test_an_error_of_the_system_is_one_message(error, message):
    with pytest.raises(UserError, match=message):
        list(loader(partial(fail, error), workers=0))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_the_code_keeps_its_traceback_and_names_the_clip(workers):
    with pytest.raises(KeyError) as caught:
        list(loader(partial(fail, KeyError("planted")), workers))
    told = f"{caught.value}{getattr(caught.value, '__notes__', '')}"
    assert "planted" in told and "while clip 2 (/data/2.mp4) was read" in told
    assert workers == 0 or "in fail" in told
    assert not multiprocessing.active_children()


def test_an_error_in_making_a_batch_is_one_message():
    batches = loader(nothing, batches=[[0, 1]])
    batches.dataset.items[1] = Clip("b", partial(frames, 3))
    with pytest.raises(UserError, match=r"^clip 0 has 2 frames and b has 3, .*data\.fps=null"):
        list(batches)


def take_away_shared_memory() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))


def test_a_batch_for_which_shared_memory_is_too_small_is_an_error_and_no_hang():
    message = fault(loader(take_away_shared_memory))
    assert message.startswith("a batch of 0.0 MB cannot be handed over (unable to ")
    assert "the shared memory /dev/shm (" in message and "docker run --shm-size=8g" in message
    assert "lower data.num_workers or data.batch_size" in message


def test_if_a_worker_cannot_be_started_none_is_left(monkeypatch):
    connect, begun = forkserver.connect_to_new_process, []

    def connect_once(descriptors):
        if begun:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        begun.append(True)
        return connect(descriptors)

    monkeypatch.setattr(forkserver, "connect_to_new_process", connect_once)
    assert fault(loader(nothing, workers=2)).startswith(
        "data.num_workers=2: they cannot be started ([Errno 11] Resource temporarily unavailable)."
        " Lower it, or raise the limits of processes (ulimit -u)"
    )


def test_workers_cannot_be_started_without_shared_memory(monkeypatch):
    def fail_to_share(_) -> None:
        raise RuntimeError("unable to open shared memory object </torch_1> (30)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail_to_share)
    message = fault(loader(nothing))
    assert "cannot be started (unable to open shared memory" in message and "/dev/shm" in message


@pytest.mark.parametrize(
    ("files", "text"),
    [([], "a"), (["x/a.mp4"], "a (x/a.mp4)"), (["/d/a/1.png", "/d/a/2/2.png"], "a (/d/a)")],
)
def test_a_clip_is_named_with_its_file_or_folder(files, text):
    assert str(Reading("a", tuple(map(Path, files)))) == text


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_may_be_empty(workers):
    given = list(loader(nothing, workers, batches=[[0, 2], [], [3]]))
    assert [len(batch["frames"]) for batch in given] == [2, 0, 1]
    assert names(given) == ["clip 0", "clip 2", "clip 3"]
