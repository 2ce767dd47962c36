"""What went wrong with a clip, or with the worker that read it, as one message with a remedy."""

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import PicklingError
from typing import Final, NamedTuple

from typing_extensions import override

from datamodules.samples import BadSample
from vlynx_pl.io.errors import UserError

_AGAIN: Final = "run the same command again: a fit continues from its last checkpoint"
_MOUNT: Final = f"Mount it again, and {_AGAIN}"
_FEWER: Final = "lower data.num_workers or data.batch_size"
# What the system reports when a disk, a mount or its server no longer responds.
_DISK_GONE: Final = (
    errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ENODEV, errno.ENXIO,
)  # fmt: skip
_SHM: Final = Path("/dev/shm")


class Reading(NamedTuple):
    """What is being read: the name of a clip or an episode, and its files."""

    name: str
    files: tuple[Path, ...]

    @property
    def location(self) -> Path | str:
        """The file, or the folder that holds all files, or the name if there are no files."""
        match self.files:
            case []:
                return self.name
            case [file]:
                return file
        return Path(os.path.commonpath([file.absolute() for file in self.files]))

    def __str__(self) -> str:
        return f"{self.name} ({self.location})" if self.files else self.name


class WorkerFault(BadSample):
    """A worker died or hung while it was reading a sample.

    Args:
        reading: what it was reading.
        reason: what happened to the worker.
        remedy: what to do about it.
        index: of the sample in its dataset.
    """

    def __init__(self, reading: Reading, reason: str, remedy: str, index: int) -> None:
        reason = f"the worker that was reading {reading.name} {reason}"
        super().__init__(reading.location, reason, remedy)
        self.index = index

    @override
    def __str__(self) -> str:
        return f"{super().__str__()}. Then {_AGAIN}"


class LostWorkerError(UserError):
    """A worker died or stalled while it was reading nothing."""


@contextmanager
def explained(reading: Reading) -> Iterator[None]:
    """Name the clip in whatever is raised while it is read.

    Raises:
        UserError: the clip is bad, or the system can no longer read it.
        Exception: an error in our code, unchanged except for a note that names the clip.
    """
    try:
        yield
    except (UserError, OSError) as error:
        named = _about(reading, error)
        if named is error:
            raise
        raise named from error
    except MemoryError as error:
        remedy = f"Ask for more, {_FEWER}, or leave it out"
        reason = f"there was not enough memory to read {reading.name}"
        raise BadSample(reading.location, reason, remedy) from error
    except Exception as error:
        error.add_note(f"This happened while {reading} was read.")
        raise


def hung(index: int, reading: Reading, seconds: float) -> WorkerFault:
    """The error for a worker that does not finish a sample."""
    return WorkerFault(
        reading,
        f"has not finished in data.timeout={seconds:g} s",
        "Check whether its disk responds, check the file with vlynx check, and leave it out if it "
        "is damaged; data.num_workers=0 shows where it hangs, and a slow disk needs a larger "
        "data.timeout",
        index,
    )


def stalled(seconds: float) -> LostWorkerError:
    """The error for workers that have nothing left to read, and yet no batch arrives."""
    return LostWorkerError(
        f"the workers have read all they were given, but no batch has arrived for {seconds:g} s. "
        f"If a line above says why, fix that; if not, {_AGAIN}, or set data.num_workers=0"
    )


def died(index: int, reading: Reading, exitcode: int) -> WorkerFault:
    """The error for a worker that ended while it was reading a sample.

    Args:
        index: of the sample.
        reading: the sample.
        exitcode: of the process; negative is the number of a signal.
    """
    match -exitcode:
        case signal.SIGKILL:
            remedy = f"{_memory()}, or leave it out"
        case signal.SIGBUS:
            remedy = f"Probably {_shared_memory()}"
        case _:
            remedy = (
                "The file probably breaks the library that decodes it: check it with vlynx check, "
                "convert it or leave it out; data.num_workers=0 under python -X faulthandler shows "
                "where"
            )
    return WorkerFault(reading, _ending(exitcode), remedy, index)


def died_idle(exitcode: int) -> LostWorkerError:
    """The error for a worker that ended between two samples."""
    remedy = _memory() if exitcode == -signal.SIGKILL else "Lines above may say why"
    return LostWorkerError(f"an idle worker {_ending(exitcode)}. {remedy}. Then {_AGAIN}")


def not_shareable(size: int, error: Exception) -> UserError:
    """The error for a worker that cannot hand over a batch of ``size`` bytes."""
    return UserError(
        f"a batch of {size / 2**20:.1f} MB cannot be handed over ({error}). "
        f"Probably {_shared_memory()}"
    )


@contextmanager
def starting(workers: int) -> Iterator[None]:
    """Raise UserError if workers cannot be started, or cannot be sent what they should read."""
    try:
        yield
    except (PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"what reads the data cannot be sent to another process ({error}). Move the class or "
            "function into a file that Python can import, or set data.num_workers=0"
        ) from error
    except (OSError, EOFError, RuntimeError) as error:
        raise UserError(
            f"data.num_workers={workers}: they cannot be started ({error}). Lower it, or raise the "
            f"limits of processes (ulimit -u) or open files (ulimit -n); or {_shared_memory()}"
        ) from error


def _about(reading: Reading, error: UserError | OSError) -> UserError:
    if (gone := _disk_error(error)) is not None:
        where = getattr(gone, "filename", None) or reading
        reason = getattr(gone, "strerror", None) or gone
        return UserError(f"{where}: its disk no longer responds ({reason}). {_MOUNT}")
    if isinstance(error, BadSample) and error.trouble == "missing":
        # A folder that held a recording when the run began is seldom deleted, but often unmounted.
        if Path(error.path).parent.is_dir():
            return error
        remedy = f"{error.remedy}. If its disk is gone: {_MOUNT[0].lower()}{_MOUNT[1:]}"
        return BadSample(error.path, error.reason, remedy, "missing")
    if isinstance(error, UserError):
        return error
    if error.errno is None:  # raised by our code, with its own remedy
        return UserError(f"{reading}: {error}")
    where = f"{error.filename} of {reading}" if error.filename else reading
    return UserError(
        f"{where}: can no longer be read ({error.strerror}). Put it back as it was when the run "
        f"began, and {_AGAIN}"
    )


def _disk_error(error: BaseException) -> BaseException | None:
    """The error of a disk that is gone, even if a reader turned it into another error."""
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "errno", None) not in _DISK_GONE:
        cause = cause.__cause__ or cause.__context__
    return cause


def _ending(exitcode: int) -> str:
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    known = -exitcode in set(signal.Signals)
    return f"was killed by {signal.Signals(-exitcode).name if known else f'signal {-exitcode}'}"


def _memory() -> str:
    return f"Memory has probably run out: ask for more, or {_FEWER}"


def _shared_memory() -> str:
    size = f" ({shutil.disk_usage(_SHM).total / 2**20:.0f} MB)" if _SHM.is_dir() else ""
    return (
        f"the shared memory /dev/shm{size}, through which workers hand over what they read, is too "
        f"small: enlarge it (docker run --shm-size=8g), or {_FEWER}"
    )
