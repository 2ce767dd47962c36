"""The streams of an alignment's or a tuned run, read again."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
import yaml

from datamodules.base import ModalityDataModule
from datamodules.samples import Clip, Frames
from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.commands.analyse.tuned_run import TunedRun
from vlynx_pl.commands.asking import as_episode
from vlynx_pl.commands.configuration import instantiate
from vlynx_pl.guidance import InterfaceGuidance
from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.runs.run_folder import plain_data
from vlynx_pl.streams import AlignedStreams

Clips: TypeAlias = Mapping[str, Callable[[], dict[str, Any]]]
"""Clip → reads its ``streams`` and ``times``: its video, its modalities, or both."""


class ReadableRun(NamedTuple):
    """A run whose streams can be read again."""

    streams: AlignedStreams
    guidance: InterfaceGuidance | None
    clips: Callable[[], Clips]  # raises UserError if the data cannot be used
    left_out: list[str]  # what cannot be measured, and why

    @property
    def backbone(self) -> VideoBackbone:
        """The frozen Video LLM."""
        return self.streams.backbone


def open_readable(run: Path) -> ReadableRun:
    """Open a run; its data are not looked at.

    Args:
        run: folder of an alignment, or of a tuned run.

    Raises:
        UserError: it is neither, its streams are not those of AlignedStreams, or a file is damaged.
    """
    path = run / "config.yaml"
    try:
        saved = plain_data(path)
        model: dict[str, Any] = saved["model"]["init_args"]
        aligned = "modality" in model
    except (*PARSE_ERRORS, yaml.YAMLError) as error:
        raise UserError(
            f"{path} is not the configuration of a run ({error!r}); give a folder that vlynx align "
            "or vlynx tune has written"
        ) from error
    return _alignment(run, saved) if aligned else _tuned(run)


def _alignment(run: Path, saved: Mapping[str, Any]) -> ReadableRun:
    backbone: VideoBackbone = instantiate(VideoBackbone, saved["backbone"])
    backbone.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    modality, left_out, guidance = saved["model"]["init_args"]["modality"], [], None
    adapter = run / "adapters" / f"vision-{modality}"
    if not adapter.is_dir():
        left_out.append(f"{modality} after: {adapter} does not exist, the run has not finished")
    streams = AlignedStreams({modality: str(adapter) if adapter.is_dir() else "base"})
    streams.attach(backbone, None)
    path = run / "guidance.safetensors"
    if path.is_file():
        guidance = InterfaceGuidance.load(path)
        guidance.check(backbone, guidance.source.include_newline, path)
    return ReadableRun(
        streams, guidance, partial(_held_out, saved, modality, backbone, left_out), left_out
    )


def _held_out(
    saved: Mapping[str, Any], modality: str, backbone: VideoBackbone, left_out: list[str]
) -> Clips:
    """What an alignment holds out, with its own video; or beside videos of other clips."""
    data: ModalityDataModule = instantiate(
        ModalityDataModule, saved["data"], frame_size=backbone.frame_size
    )
    data.setup("fit")
    try:
        pairs = {} if data.reference_root else data.pairs("val")
    except UserError as error:
        left_out.append(f"own videos: {error}")
        pairs = {}
    if pairs:
        return {name: partial(_read, one.read, backbone) for name, one in pairs.items()}
    left_out.append("retrieval and CKA: the run's videos are not of the clips that it holds out")
    [one] = data.joined.each
    per = one.frames_per_timestamp
    clips = {f"{modality} {c.name}": partial(_frames, c, modality, per) for c in data.clips("val")}
    clips |= {f"video {c.name}": partial(_frames, c, "video", 1) for c in data.clips("reference")}
    return {name: partial(_read, read, backbone) for name, read in clips.items()}


def _read(read: Callable[[], Mapping[str, Frames]], backbone: VideoBackbone) -> dict[str, Any]:
    return as_episode(read(), backbone)


def _frames(clip: Clip, stream: str, per_timestamp: int) -> dict[str, Frames]:
    pixels = clip.read()
    return {stream: Frames(pixels, tuple(map(float, range(len(pixels) // per_timestamp))))}


def _tuned(run: Path) -> ReadableRun:
    tuned = TunedRun(run)
    if not isinstance(tuned.streams, AlignedStreams):
        raise UserError(
            f"{run} reads its streams by {type(tuned.streams).__name__}, whose tokens are not "
            "those of vision adapters; give a run of AlignedStreams"
        )

    def clips() -> Clips:
        return {name: partial(_episode, tuned, name) for name in tuned.episodes}

    return ReadableRun(tuned.streams, None, clips, [])


def _episode(tuned: TunedRun, name: str) -> dict[str, Any]:
    episode, _ = tuned.read(name)
    return episode
