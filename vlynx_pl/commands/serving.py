"""``vlynx serve``: what the server needs of the data modules, and its start."""

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from datamodules.base import ModalityDataModule
from datamodules.loading.given import ReadSent, SentClip
from datamodules.loading.loader import Loader, SampleDataset, collate_or_error
from datamodules.loading.worker_errors import LostWorkerError, WorkerFault
from vlynx_pl.commands.asking import open_run, read_configuration, reads
from vlynx_pl.commands.configuration import instantiate
from vlynx_pl.io.errors import UserError
from vlynx_pl.runs.run_folder import plain_data
from vlynx_pl.serving.limits import Limits
from vlynx_pl.serving.loopback import is_loopback
from vlynx_pl.serving.sessions import ClipFrames, Sample, ServedRun

_MEMORY: Final = 4 * 2**30  # bytes that reading a clip may take
_UNPACKED: Final = 4  # images hardly shrink in a zip
_TOKEN: Final = 16  # characters, at least
_GRACE: Final = 5  # s for requests under way, once the server is asked to end
_SAMPLES: Final = 8
_QUESTIONS: Final = 4  # of a sample


def serve(runs: Sequence[Path], host: str, port: int, token: str | None, limits: Limits) -> None:
    """Answer until the process is asked to stop.

    Args:
        runs: folders of tuned runs.
        host: address to listen at.
        port: to listen at; 0 is any that is free.
        token: that clients must send.
        limits: of what is accepted.

    Raises:
        UserError: a run cannot be used, the port is in use, or another computer could ask without
            a token.
    """
    if token is None and not is_loopback(host):
        raise UserError(
            f"--host {host} lets other computers ask; give a secret with --token or VLYNX_TOKEN, "
            "or leave --host out"
        )
    if token is not None and (len(token) < _TOKEN or not token.isascii()):
        raise UserError(f"--token: give {_TOKEN} ASCII characters or more, which nobody can guess")
    names = [run.resolve().name for run in runs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"--run: several folders are named {', '.join(repeated)}, and clients ask for a run by "
            "the name of its folder; rename all but one, or give it once"
        )
    try:
        import python_multipart  # noqa: F401 (which FastAPI reads forms with)
        import uvicorn

        from vlynx_pl.serving.app import make_app
    except ImportError as error:
        raise ImportError(
            f"vlynx serve needs {error.name}; install it with pip install -c constraints.txt -e "
            "'.[serve]'"
        ) from error
    console = Console(stderr=True)
    with _listening(host, port) as listening:
        with console.status("Loading"):
            served = [served_run(run, limits) for run in runs]
        app = make_app(served, limits, token)
        where = f"[{host}]" if ":" in host else host
        console.print(
            f"Answering at http://{where}:{listening.getsockname()[1]} with "
            f"{escape(', '.join(names))}; Ctrl-C ends it",
            soft_wrap=True,
        )
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE
        )
        with suppress(KeyboardInterrupt):  # which uvicorn raises again once it has ended
            uvicorn.Server(config).run([listening])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--host {host} --port {port}: {reason}; give another") from error


def served_run(run: Path, limits: Limits) -> ServedRun:
    """Load a tuned run; raises UserError."""
    configuration = read_configuration(run)
    module, _ = open_run(run)
    size, name = module.backbone.frame_size, run.resolve().name
    modalities, wanted = reads(configuration, size)
    reader = ReadSent(name, modalities, wanted, limits.seconds, _UNPACKED * limits.upload, _MEMORY)
    return ServedRun(name, module, partial(read_apart, reader, limits.reading), _samples(run, size))


def read_apart(
    reader: Callable[[SentClip], dict[str, Any]],
    seconds: float,
    folder: Path,
    sent: Mapping[str, Path],
) -> ClipFrames:
    """Read a clip in a process of its own, as its files may break a decoder.

    Args:
        reader: reads it; see :class:`ReadSent`.
        seconds: s that it may take.
        folder: holds nothing but the files.
        sent: kind → file.

    Raises:
        UserError: the clip cannot be read.
    """
    loader = Loader(
        SampleDataset([SentClip(folder, sent)], reader),
        num_workers=1,
        collate_fn=partial(collate_or_error, list),
        timeout=seconds,
    )
    try:
        [[found]] = loader
    except (WorkerFault, LostWorkerError) as fault:
        raise UserError(
            f"the clip needs more than {seconds:g} s or {_MEMORY >> 30} GiB to be read, or breaks "
            "its decoder; convert it to H.264 in MP4, or send a shorter clip"
        ) from fault
    # Copied out of the memory that processes share, which is small in containers.
    streams = {name: pixels.clone() for name, pixels in found["streams"].items()}
    return ClipFrames(streams, found["times"], tuple(found["doubts"]))


def _samples(run: Path, size: tuple[int, int]) -> dict[str, Sample]:
    """Clips that the run is tested on, if its data are there."""
    saved = plain_data(run / "config.yaml")["data"]
    saved["init_args"] = saved["init_args"] | {"num_workers": 0}
    try:
        data: ModalityDataModule = instantiate(ModalityDataModule, saved, frame_size=size)
        data.setup("test")
    except (UserError, OSError) as error:
        Console(stderr=True).print(f"No samples of {run}: {error}", markup=False, soft_wrap=True)
        return {}
    episodes = data.episodes(data.test_split)[:_SAMPLES]
    return {
        one.name: Sample(one.questions[:_QUESTIONS], partial(_read_sample, data, one.name))
        for one in episodes
    }


def _read_sample(data: ModalityDataModule, name: str) -> ClipFrames:
    [[episode]] = data.episode_batches(data.test_split, [name])
    return ClipFrames(episode["streams"], episode["times"])
