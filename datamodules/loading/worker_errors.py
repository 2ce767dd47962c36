"""What went wrong with a clip or with the process that read it, in one message with a remedy."""

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import PicklingError
from typing import Final, NamedTuple

from datamodules.samples import BadSample
from vlynx_pl.io.errors import UserError

_AGAIN: Final = "run the same command again: a fit goes on from its last checkpoint"
_MOUNT: Final = f"Mount it again, and {_AGAIN}"
_FEWER: Final = "lower data.num_workers or data.batch_size"
# What systems say of a disk, a mount or its server that no longer answers.
_DISK_GONE: Final = (
    errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ENODEV, errno.ENXIO,
)  # fmt: skip
_SHM: Final = Path("/dev/shm")


class Reading(NamedTuple):
    """What is read at a time: the name of a clip or an episode, and its files."""

    name: str
    files: tuple[Path, ...]

    @property
    def place(self) -> Path | str:
        """The file, or the folder of the files, or the name where there is none."""
        match self.files:
            case []:
                return self.name
            case [file]:
                return file
            case _:
                return Path(os.path.commonpath([file.absolute() for file in self.files]))

    def __str__(self) -> str:
        """The name and its place."""
        match self.files:
            case []:
                return self.name
            case [file]:
                return f"{self.name} ({file})"
            case _:
                return f"{self.name} ({len(self.files)} files in {self.place})"


@contextmanager
def explained(reading: Reading) -> Iterator[None]:
    """Say of whatever is raised in reading a clip which clip it was.

    Raises:
        UserError: the clip is bad, or the system can no longer give it.
        Exception: a mistake of ours, as it is but for a note with the clip.
    """
    try:
        yield
    except (UserError, OSError) as error:
        told = _about(reading, error)
        if told is error:
            raise
        raise told from error
    except MemoryError as error:
        raise UserError(
            f"{reading}: there was not enough memory to read it. Ask for more, or {_FEWER}"
        ) from error
    except Exception as error:
        error.add_note(f"This happened while {reading} was read.")
        raise


def hung(reading: Reading, seconds: float) -> UserError:
    """A worker is on one clip and finds no end."""
    return UserError(
        f"{reading}: a worker has been reading it for {seconds:g} s and finds no end. Look whether "
        "its disk answers, check the file with vlynx check, and leave it out if it is damaged; "
        "data.num_workers=0 shows where it hangs, and a slow disk needs a larger data.timeout. "
        f"Then {_AGAIN}"
    )


def silent(seconds: float) -> UserError:
    """No worker reads anything, and yet nothing arrives."""
    return UserError(
        f"the workers have read everything they were given, and for {seconds:g} s nothing of it "
        f"has arrived. If a line above says why, mend that; if not, {_AGAIN}, or set "
        "data.num_workers=0"
    )


def died(reading: Reading | None, exitcode: int) -> UserError:
    """A worker's process has ended.

    Args:
        reading: what it read at that moment, if anything.
        exitcode: of the process; negative is the number of a signal.
    """
    how = _ending(exitcode)
    match -exitcode:
        case signal.SIGKILL:
            remedy = f"Memory has probably run out: ask for more, or {_FEWER}"
        case signal.SIGBUS:
            remedy = f"Probably {_shared_memory()}"
        case _:
            remedy = (
                "Its file probably breaks the library that decodes it: check it with vlynx check, "
                "and leave it out; data.num_workers=0 under python -X faulthandler shows where"
            )
    who = "a worker that was reading nothing" if reading is None else f"{reading}: its worker"
    return UserError(f"{who} {how}. {remedy}. Then {_AGAIN}")


def died_of(reading: Reading, exitcode: int | None) -> BadSample:
    """A process has ended that only looked whether a sample can be read."""
    remedy = "It probably breaks the library that decodes it: convert it, or leave it out"
    if exitcode == -signal.SIGKILL:
        remedy = f"Memory has probably run out: ask for more, {_FEWER}, or leave it out"
    return BadSample(reading.place, f"the process that read it {_ending(exitcode)}", remedy)


def took_too_long(reading: Reading, seconds: float) -> BadSample:
    """A process was ended that only looked whether a sample can be read."""
    return BadSample(
        reading.place,
        f"reading it took longer than data.timeout={seconds:g} s",
        "Look whether its disk answers and raise data.timeout, or leave it out",
    )


def too_large(reading: Reading) -> BadSample:
    """Python found no memory for a sample."""
    reason = "there was not enough memory to read it"
    return BadSample(reading.place, reason, f"Ask for more, {_FEWER}, or leave it out")


def cannot_travel(error: Exception) -> UserError:
    """What reads a file cannot be sent to the process that should do it."""
    return UserError(
        f"what reads the data cannot be sent to another process ({error}). Move the class or "
        "function into a file that Python can import, or set data.num_workers=0"
    )


def no_room(size: int, error: Exception) -> UserError:
    """A worker cannot hand over what it read, ``size`` bytes."""
    return UserError(
        f"a batch of {size / 2**20:.1f} MB cannot be handed over ({error}). "
        f"Probably {_shared_memory()}"
    )


@contextmanager
def starting(workers: int) -> Iterator[None]:
    """Raises UserError where workers cannot be started, or not be told what to read."""
    try:
        yield
    except (PicklingError, AttributeError, TypeError) as error:
        raise cannot_travel(error) from error
    except (OSError, EOFError, RuntimeError) as error:
        raise UserError(
            f"data.num_workers={workers}: they cannot be started ({error}). Lower it, or raise the "
            f"limits of processes (ulimit -u) or open files (ulimit -n); or {_shared_memory()}"
        ) from error


def _about(reading: Reading, error: UserError | OSError) -> UserError:
    if (gone := _disk_error(error)) is not None:
        where = getattr(gone, "filename", None) or reading
        said = getattr(gone, "strerror", None) or gone
        return UserError(f"{where}: its disk no longer answers ({said}). {_MOUNT}")
    if isinstance(error, BadSample) and error.trouble == "missing":
        # A folder that held a recording when the run began is seldom deleted, but often unmounted.
        if Path(error.path).parent.is_dir():
            return error
        remedy = f"{error.remedy}. If its disk is gone: {_MOUNT[0].lower()}{_MOUNT[1:]}"
        return BadSample(error.path, error.reason, remedy, "missing")
    if isinstance(error, UserError):
        return error
    if error.errno is None:  # ours, with a remedy of its own
        return UserError(f"{reading}: {error}")
    where = f"{error.filename} of {reading}" if error.filename else reading
    return UserError(
        f"{where}: can no longer be read ({error.strerror}). Put it back as it was when the run "
        f"began, and {_AGAIN}"
    )


def _disk_error(error: BaseException) -> BaseException | None:
    """What a disk that is gone raised, also where a reader made another error of it."""
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "errno", None) not in _DISK_GONE:
        cause = cause.__cause__ or cause.__context__
    return cause


def _ending(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"ended with exit code {exitcode}"
    known = -exitcode in set(signal.Signals)
    return f"was killed by {signal.Signals(-exitcode).name if known else f'signal {-exitcode}'}"


def _shared_memory() -> str:
    size = f" ({shutil.disk_usage(_SHM).total / 2**20:.0f} MB)" if _SHM.is_dir() else ""
    return (
        f"the shared memory /dev/shm{size}, through which workers hand over what they read, is too "
        f"small: enlarge it (docker run --shm-size=8g), or {_FEWER}"
    )
