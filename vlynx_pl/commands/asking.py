"""``vlynx ask``: a question about files that no benchmark names, answered by a tuned run.

Model and streams are made with the run's own settings; its benchmark, whose files may be gone, is
not looked at.
"""

from argparse import ArgumentError
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from torch import Tensor
from typing_extensions import override

from datamodules.base import ModalityDataModule
from datamodules.benchmarks.base import Benchmark, QuestionRecord
from datamodules.loading.reading import resize_ignoring_aspect
from datamodules.samples import BadSample, Frames, Question, Split, Streams
from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.io.errors import PARSE_ERRORS, UserError, unwrap_user_error
from vlynx_pl.runs.run_folder import plain_data
from vlynx_pl.streams import StreamTokens
from vlynx_pl.tuning import InstructionTuning

_WHAT: Final = {
    "video": "a video file",
    "audio": "a file with its sound",
    "depth": "the folder of a scene in ScanNet's exported layout",
    "ego": "the video of the person's own view",
}


_VIDEO_ALONE: Final = {"class_path": "vlynx_pl.streams.AlignedStreams"}


class GivenFiles(dict[str, Path]):
    """Option → path, as given to ``run``; one that is looked for and missing is a UserError.

    Args:
        run: the run's folder, for messages.
        options: option, without dashes → path, or None where it isn't given.

    Raises:
        UserError: there is no such file or folder, or two options name the same.
    """

    def __init__(self, run: Path, options: Mapping[str, Path | None]) -> None:
        super().__init__({option: path for option, path in options.items() if path is not None})
        self.run = run
        for option, path in self.items():
            if not (path.is_dir() if option == "depth" else path.is_file()):
                raise UserError(f"--{option} {path}: is not there, or is not {_WHAT[option]}")
        if len({path.resolve() for path in self.values()}) < len(self):
            raise UserError("two options name the same file; give each file once")

    def __missing__(self, option: str) -> Path:
        """Say what to add."""
        raise UserError(f"{self.run} needs --{option}, {_WHAT[option]}; add it")


class _NoBenchmark(Benchmark):
    """Stands where the run has its benchmark."""

    @override
    def read(self, split: Split, files: list[Path]) -> Iterable[QuestionRecord]:
        return ()


def ask(run: Path, question: str, options: Mapping[str, Path | None]) -> str:
    """Print the streams that a run reads, on stderr, and then its answer, on stdout.

    Args:
        run: folder of a run of InstructionTuning.
        question: put to the model as it is.
        options: see :func:`open_run`.

    Returns:
        The answer.

    Raises:
        UserError: the folder is none of a tuned run; a file is missing, has no use or can't be
            used.
    """
    if not question.strip():
        raise UserError("the question is empty; give it in quotes")
    _streams(run, read_configuration(run), options)  # say what is wrong before a model is loaded
    console = Console(stderr=True)
    with console.status(f"Loading {escape(str(run))}") as status:
        module, read = open_run(run)
        status.update("Looking")
        streams = read(options)
        device = module.backbone.newline.device
        pictures = {name: stream.pixels.to(device) for name, stream in streams.items()}
        times = {name: stream.times for name, stream in streams.items()}
        episode = {"streams": pictures, "times": times}
        module.streams.check(episode)
        with torch.inference_mode():
            encoded = module.streams.encode(episode)
        tokens = dict(zip(module.streams.names, encoded, strict=True))
        console.print(_table(module, streams, tokens))
        status.update("Answering")
        asked = Question("asked", question, ())
        [said] = module.answers({"tokens": tokens, "questions": [asked]})
    print(said)
    return said


def open_run(
    run: Path, device: torch.device | None = None
) -> tuple[InstructionTuning, Callable[[Mapping[str, Path | None]], dict[str, Frames]]]:
    """A tuned run, ready to answer, and what reads its streams.

    Args:
        run: folder of a run of InstructionTuning.
        device: where it answers; None is a GPU, where there is one.

    Returns:
        The model, and a function of options, ``video``, ``audio``, ``depth`` (the folder of a
        scene) and ``ego`` → path, or None where there is none. It gives uint8 (T, 3, H, W) with
        their times, ``video`` first, or raises UserError.

    Raises:
        UserError: the folder is none of a tuned run.
    """
    configuration = read_configuration(run)
    backbone: VideoBackbone = _made("backbone", VideoBackbone, configuration)
    module: InstructionTuning = _made("model", InstructionTuning, configuration, backbone=backbone)
    gpu = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    read = partial(_read, run, configuration, backbone.frame_size)
    module.choices = ""  # for the questions of a benchmark; others are answered freely
    return module.eval().to(device or gpu), read


def read_configuration(run: Path) -> dict[str, Any]:
    """Backbone, model and data of a tuned run, with the adapters that it trained.

    Raises:
        UserError: the folder is none of a tuned run.
    """
    path = run / "config.yaml"
    try:
        saved = plain_data(path)
        parts = {part: _part(saved[part]) for part in ("backbone", "model", "data")}
        model = parts["model"]["init_args"]
        streams = model["streams"] = _part(model.get("streams") or _VIDEO_ALONE)
    except (*PARSE_ERRORS, yaml.YAMLError, AttributeError) as error:
        raise UserError(
            f"{path}: is no configuration of a run ({error}); give the folder of a finished "
            "vlynx fit with --run"
        ) from error
    if "task" not in model:
        raise UserError(
            f"{run}: is no tuned run, its model is {parts['model']['class_path']}; give one of "
            "InstructionTuning, such as make tune leaves"
        )
    model["llm_adapter"] = _trained(run, f"llm-{model['task']}")
    if streams["init_args"].get("train_vision"):
        along = streams["init_args"]["modalities"]
        along |= {name: _trained(run, f"vision-{name}") for name in along}
    return parts


def _part(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A class with its settings, but for a benchmark."""
    settings = dict(saved.get("init_args") or {})
    if settings.get("benchmark") is not None:
        settings["benchmark"] = _NoBenchmark("")
    return {"class_path": saved["class_path"], "init_args": settings}


def _trained(run: Path, name: str) -> str:
    folder = run / "adapters" / name
    if not folder.is_dir():
        raise UserError(
            f"{folder}: is not there; {run} was not tuned to its end. Finish it, or give another "
            "run"
        )
    return str(folder)


def _made(part: str, kind: Any, configuration: Mapping[str, Any], **linked: object) -> Any:
    """A part of a configuration, as ``vlynx fit`` makes it."""
    saved = configuration[part]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{part}", type=kind, required=True)
    try:
        with unwrap_user_error():
            parsed = parser.parse_object(
                {part: {**saved, "init_args": saved["init_args"] | linked}}
            )
            return parser.instantiate_classes(parsed)[part]
    except ArgumentError as error:
        raise UserError(f"the run's config.yaml can't be used: {error}") from error


def _streams(
    run: Path,
    configuration: Mapping[str, Any],
    options: Mapping[str, Path | None],
    frame_size: tuple[int, int] = (384, 384),
) -> Streams:
    files = GivenFiles(run, options)
    reads: StreamTokens = _made("streams", StreamTokens, configuration["model"]["init_args"])
    _, *modalities = reads.names
    data: ModalityDataModule = _made(
        "data", ModalityDataModule, configuration, frame_size=frame_size
    )
    streams = data.joined.streams_from(files, modalities)
    for doubt in data.joined.doubts():
        rank_zero_warn(doubt)
    opened = {place for file in streams.files for place in (file, *file.parents)}
    if useless := [option for option, path in files.items() if path not in opened]:
        used = " and ".join(f"--{option}" for option in files if option not in useless)
        raise UserError(
            f"{run} has no use for --{useless[0]}, leave it out; its streams, "
            f"{' and '.join(['video', *modalities])}, are those of {used}"
        )
    return streams


def _read(
    run: Path,
    configuration: Mapping[str, Any],
    frame_size: tuple[int, int],
    options: Mapping[str, Path | None],
) -> dict[str, Frames]:
    streams = _streams(run, configuration, options, frame_size)
    try:
        read = streams.read()
    except BadSample as bad:
        if bad.trouble not in {"no audio", "silent"} or options.get("audio") is not None:
            raise
        remedy = f"Add --audio, {_WHAT['audio']}"
        raise BadSample(bad.path, bad.reason, remedy, bad.trouble) from bad
    return {
        name: Frames(resize_ignoring_aspect(stream.pixels, frame_size), stream.times)
        for name, stream in read.items()
    }


def _table(
    module: InstructionTuning, streams: Mapping[str, Frames], tokens: Mapping[str, Tensor]
) -> Table:
    table = Table("stream", "pictures", "seconds", "tokens", Column("read by", overflow="fold"))
    adapters = module.streams.settings.get("modalities", {})
    for name, given in tokens.items():
        pictures, times = streams[name]
        table.add_row(
            name,
            str(len(pictures)),
            f"{times[0]:.2f} to {times[-1]:.2f}",
            str(given.shape[:-1].numel()),
            escape(adapters.get(name, "base")),
        )
    return table
