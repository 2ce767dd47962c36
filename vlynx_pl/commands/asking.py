"""``vlynx ask``: answers a question about any files with a tuned run.

Model and streams are made with the run's own settings. Its benchmark is not read, as its files may
be gone.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import override

from datamodules.base import ModalityDataModule
from datamodules.benchmarks.base import Benchmark, QuestionRecord
from datamodules.loading.given import KINDS, GivenFiles, given_streams
from datamodules.loading.reading import resize_ignoring_aspect
from datamodules.modalities.modality import Modalities
from datamodules.samples import BadSample, Frames, Split, Streams
from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.commands.configuration import instantiate
from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.io.files import atomic_file
from vlynx_pl.questions import Question
from vlynx_pl.runs.run_folder import plain_data
from vlynx_pl.stream_tokens import StreamTokens
from vlynx_pl.tuning import InstructionTuning

_VIDEO_ALONE: Final = {"class_path": "vlynx_pl.streams.AlignedStreams"}


class _NoBenchmark(Benchmark):
    """Placeholder for the run's benchmark."""

    @override
    def read(self, split: Split, files: list[Path]) -> Iterable[QuestionRecord]:
        return ()


def ask(
    run: Path, question: str, options: Mapping[str, Path | None], frames: Path | None = None
) -> str:
    """Print the streams that a run reads to stderr, and its answer to stdout.

    Args:
        run: folder of a run of InstructionTuning.
        question: put to the model unchanged.
        options: see :func:`open_run`.
        frames: file to write the frames into, for an exported model.

    Returns:
        The answer.

    Raises:
        UserError: the folder is not that of a tuned run; a file is missing, unused or unusable.
    """
    if not question.strip():
        raise UserError("the question is empty; give it in quotes")
    _streams(run, read_configuration(run), options)  # check the files before a model is loaded
    console = Console(stderr=True)
    with console.status(f"Loading {escape(str(run))}") as status:
        module, read = open_run(run)
        status.update("Reading")
        episode = read(options)
        module.streams.check(episode)
        if frames is not None:
            with atomic_file(frames) as unfinished:
                save_file(clip_of(episode), unfinished)
        with torch.inference_mode():
            tokens = module.streams.encode(episode)
            console.print(_table(module, episode, tokens))
        status.update("Answering")
        asked = Question("asked", question, ())
        [answer] = module.answers({**episode, "tokens": tokens, "questions": [asked]})
    print(answer)
    return answer


def open_run(
    run: Path, device: torch.device | None = None
) -> tuple[InstructionTuning, Callable[[Mapping[str, Path | None]], dict[str, Any]]]:
    """Load a tuned run.

    Args:
        run: folder of a run of InstructionTuning.
        device: of the model; None is a GPU if there is one, else the CPU.

    Returns:
        The model, and a function that reads an episode. Its argument maps ``video``, ``audio``,
        ``depth`` (the folder of a scene) and ``ego`` to paths, or None. It returns ``streams``,
        name → uint8 (T, 3, H, W) on the model's device, ``video`` first, and ``times`` in s, or
        raises UserError.

    Raises:
        UserError: the folder is not that of a tuned run.
    """
    configuration = read_configuration(run)
    backbone: VideoBackbone = instantiate(VideoBackbone, configuration["backbone"])
    module: InstructionTuning = instantiate(
        InstructionTuning, configuration["model"], backbone=backbone
    )
    module.choices = ""  # letters are for the questions of a benchmark
    module.eval().to(device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return module, partial(_read, run, configuration, backbone)


def read_configuration(run: Path) -> dict[str, Any]:
    """Read backbone, model and data of a tuned run, with the adapters that it trained.

    Raises:
        UserError: the folder is not that of a tuned run.
    """
    path = run / "config.yaml"
    try:
        saved = plain_data(path)
        parts = {part: _part(saved[part]) for part in ("backbone", "model", "data")}
        model = parts["model"]["init_args"]
        streams = model["streams"] = _part(model.get("streams") or _VIDEO_ALONE)
    except (*PARSE_ERRORS, yaml.YAMLError, AttributeError) as error:
        raise UserError(
            f"{path} is not the configuration of a run ({error}); give the folder of a finished "
            "vlynx fit with --run"
        ) from error
    if "task" not in model:
        raise UserError(
            f"{run} is not a tuned run, its model is {parts['model']['class_path']}; give a run of "
            "InstructionTuning, such as vlynx tune leaves"
        )
    model["llm_adapter"] = _trained(run, f"llm-{model['task']}")
    if streams["init_args"].get("train_vision"):
        along = streams["init_args"]["modalities"]
        along |= {name: _trained(run, f"vision-{name}") for name in along}
    return parts


def _part(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A class with its settings, without a benchmark."""
    settings = dict(saved.get("init_args") or {})
    if settings.get("benchmark") is not None:
        settings["benchmark"] = _NoBenchmark("")
    return {"class_path": saved["class_path"], "init_args": settings}


def _trained(run: Path, name: str) -> str:
    folder = run / "adapters" / name
    if not folder.is_dir():
        raise UserError(
            f"{folder} does not exist: {run} was not tuned to its end. Finish it, or give another "
            "run"
        )
    return str(folder)


def _streams(
    run: Path,
    configuration: Mapping[str, Any],
    options: Mapping[str, Path | None],
    frame_size: tuple[int, int] = (384, 384),
) -> Streams:
    """The streams that the run reads, unread; raises UserError for a missing or unused file."""
    files = GivenFiles(run, options)
    modalities, wanted = reads(configuration, frame_size)
    streams = given_streams(modalities, wanted, files)
    for doubt in modalities.doubts():
        rank_zero_warn(doubt)
    return streams


def reads(
    configuration: Mapping[str, Any], frame_size: tuple[int, int]
) -> tuple[Modalities, tuple[str, ...]]:
    """The modalities of a run's data, and the names of those that it was tuned with.

    Args:
        configuration: from :func:`read_configuration`.
        frame_size: (H, W) of the frames.

    Raises:
        UserError: the configuration cannot be used.
    """
    tokens: StreamTokens = instantiate(StreamTokens, configuration["model"]["init_args"]["streams"])
    data: ModalityDataModule = instantiate(
        ModalityDataModule, configuration["data"], frame_size=frame_size
    )
    return data.joined, tokens.names[1:]


def _read(
    run: Path,
    configuration: Mapping[str, Any],
    backbone: VideoBackbone,
    options: Mapping[str, Path | None],
) -> dict[str, Any]:
    streams = _streams(run, configuration, options, backbone.frame_size)
    try:
        read = streams.read()
    except BadSample as bad:
        if bad.trouble not in {"no audio", "silent"} or options.get("audio") is not None:
            raise
        remedy = f"Add --audio, {KINDS['audio']}"
        raise BadSample(bad.path, bad.reason, remedy, bad.trouble) from bad
    return as_episode(read, backbone)


def as_episode(read: Mapping[str, Frames], backbone: VideoBackbone) -> dict[str, Any]:
    """Make an episode of frames that were read.

    Returns:
        ``streams``, name → uint8 (T, 3, H, W) of the backbone's size and on its device, and
        ``times`` in s.
    """
    device = backbone.device
    frames = {
        name: resize_ignoring_aspect(stream.pixels, backbone.frame_size).to(device)
        for name, stream in read.items()
    }
    return {"streams": frames, "times": {name: stream.times for name, stream in read.items()}}


def clip_of(episode: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the frames and the times of an episode's streams as an exported model reads them."""
    times = {f"{n}.times": torch.tensor(t).double() for n, t in episode["times"].items()}
    return {name: frames.cpu() for name, frames in episode["streams"].items()} | times


def _table(
    module: InstructionTuning, episode: Mapping[str, Any], tokens: Mapping[str, Tensor]
) -> Table:
    table = Table("stream", "frames", "seconds", "tokens", Column("read by", overflow="fold"))
    adapters = module.streams.settings.get("modalities", {})
    counts = {name: tokens[name].shape[:-1].numel() for name in module.streams.names}
    read = zip(counts, module.streams.tokens(tokens, episode), strict=False)  # PAVE adds none
    counts |= {name: len(stream.rows) for name, stream in read}
    for name, count in counts.items():
        times = episode["times"][name]
        table.add_row(
            name,
            str(len(episode["streams"][name])),
            f"{times[0]:.2f} to {times[-1]:.2f}",
            str(count),
            escape(adapters.get(name, "base")),
        )
    return table
