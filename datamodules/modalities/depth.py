"""Depth as a modality: ScanNet scenes as frames of disparity and normals (paper, section 4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from typing_extensions import override

from datamodules.media.depth_units import DepthScale, check_scale
from datamodules.media.paths import inside
from datamodules.media.scannet import ScanNetFrame, ScanNetScene, open_scene
from datamodules.media.scannet_frames import (
    Encoding,
    NormalFrame,
    chunks,
    colour_frames,
    depth_frames,
    doubt_of,
    farthest_frames,
    subsample,
    windows,
)
from datamodules.media.scannet_splits import find_scenes, listed_scenes, scenes_folder
from datamodules.modalities.modality import FrameSpec, Modality
from datamodules.samples import Clip, Episode, Frames, Split, Streams
from datamodules.signals.disparity import check_range
from datamodules.splits import hold_out
from vlynx_pl.io.errors import UserError

_UNITS_CHECKED: Final = 8  # scenes whose unit is checked before a run
_RATE: Final = 30.0  # Hz: frames are numbered at the rate at which ScanNet was recorded


@dataclass(frozen=True)
class SceneFolder:
    """A scene, or a part of its frames if it is the only scene."""

    path: Path
    part: Literal["whole", "first", "last"] = "whole"

    @property
    def name(self) -> str:
        return self.path.absolute().name


@dataclass(frozen=True, kw_only=True)
class Depth(Modality):
    """Depth of ScanNet scenes, and their colour as video.

    Without a benchmark, scenes of ``scannetv2_train.txt`` in the root are for training, those of
    ``scannetv2_val.txt`` are held out, and others are not read. Without these lists the last 20 %
    of the scenes by name are held out, at least one; of a single scene, the last 20 % of its
    frames. The reference videos are always from training scenes.

    Frames without a usable pose, or without depth in any pixel, are dropped for all encodings, as
    is usual with ScanNet: without tracking there is often motion blur, and all stages then see the
    same frames. See :func:`datamodules.media.scannet.open_scene`.

    The unit of a 16-bit image is unknown. Three frames of eight scenes (of all scenes, in ``vlynx
    check``) are examined before the first step, and a warning names scenes for which another unit
    is more probable, see :func:`datamodules.media.depth_units.doubt`.

    An episode has ``frames`` of a scene: those whose cameras are farthest from each other (see
    :func:`datamodules.media.pose_sampling.farthest_points`), or all, if there are fewer.

    Args:
        encoding: how depth is rendered; ``turbo+normals`` gives two frames, in this order, whose
            tokens tuning averages. The released scripts use it; the paper names only disparity
            with a colour map.
        near_mm: nearest depth in mm that has a colour of its own.
        far_mm: farthest depth in mm that has a colour of its own.
        normal_frame: axes of the normals.
        depth_scale: units per metre of the depth files: 1000 is mm; or ``sun``, mm with the rotated
            bits of SUN RGB-D. Depth is converted to mm before it is rendered, so alignment and
            tuning may differ in it.
        frames_per_sample: depth frames per clip in alignment, which uses all frames. The last clip
            of a scene ends at its last frame, so it may overlap the clip before.
        reference_frames: colour frames per reference video; the last of a scene may be shorter.
    """

    name: ClassVar[str] = "3d"

    encoding: Encoding = "turbo"
    near_mm: float = 200
    far_mm: float = 10_000
    normal_frame: NormalFrame = "camera"
    depth_scale: DepthScale = 1000
    frames_per_sample: int = 1
    reference_frames: int = 20
    _opened: dict[SceneFolder, ScanNetScene] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_range(self.near_mm, self.far_mm)
        check_scale(self.depth_scale)
        if min(self.frames_per_sample, self.reference_frames) < 1:
            raise UserError(
                f"frames_per_sample={self.frames_per_sample} and "
                f"reference_frames={self.reference_frames} must be 1 or more"
            )

    @property
    def _rendering(self) -> dict[str, Any]:
        return {
            "encoding": self.encoding,
            "near_mm": self.near_mm,
            "far_mm": self.far_mm,
            "normal_frame": self.normal_frame,
        }

    @property
    @override
    def rendering_settings(self) -> dict[str, Any]:
        unused = "normal_frame" if self.encoding in {"turbo", "gray"} else ""
        return {name: value for name, value in self._rendering.items() if name != unused}

    @property
    @override
    def frames_per_timestamp(self) -> int:
        return len(self.encoding.split("+"))

    @override
    def clip_frames(self, spec: FrameSpec) -> int:
        return self.frames_per_sample * self.frames_per_timestamp

    @override
    def find(self, root: Path) -> Mapping[Split, list[SceneFolder]]:
        if listed := listed_scenes(root):
            return {split: [SceneFolder(p) for p in paths] for split, paths in listed.items()}
        folders = [SceneFolder(path) for path in find_scenes(root)]
        train, val = hold_out(folders)
        if not train:
            train = [SceneFolder(folders[0].path, "first")]
            val = [SceneFolder(folders[0].path, "last")]
        return {"train": train, "val": val}

    @override
    def locate(self, root: Path, episode: Episode) -> SceneFolder:
        name = episode.media.get("scene", episode.name)
        return SceneFolder(inside(scenes_folder(root), name, root))

    @override
    def clips(self, source: SceneFolder, spec: FrameSpec) -> list[Clip]:
        scene = self._open(source)
        render = partial(depth_frames, scene, **self._rendering)
        return [
            Clip(_name(scene, part), partial(render, part), _files(scene, part, "depth", "pose"))
            for part in windows(scene, self.frames_per_sample)
        ]

    @override
    def reference_clips(self, source: SceneFolder, spec: FrameSpec) -> list[Clip]:
        scene = self._open(source)
        return [
            Clip(
                _name(scene, part),
                partial(colour_frames, scene, part),
                _files(scene, part, "colour"),
            )
            for part in chunks(scene.frames, self.reference_frames)
        ]

    @override
    def streams(self, source: SceneFolder, spec: FrameSpec) -> Streams:
        scene = self._open(source)
        chosen = farthest_frames(scene, spec.frames)
        read = partial(read_scene, scene, chosen, self._rendering)
        return Streams(read, _files(scene, chosen, "colour", "depth", "pose"))

    @override
    def streams_from(self, files: Mapping[str, Path], spec: FrameSpec, wanted: bool) -> Streams:
        source = SceneFolder(files["depth"])
        if wanted:
            return self.streams(source, spec)
        scene = self._open(source)
        chosen = farthest_frames(scene, spec.frames)
        return Streams(partial(read_colour, scene, chosen), _files(scene, chosen, "colour", "pose"))

    @override
    def report(self) -> dict[str, list[str]]:
        dropped = [
            f"{scene.name}/{frame}: {reason}"
            for scene in self._opened.values()
            for frame, reason in scene.dropped.items()
        ]
        return {"dropped_frames": dropped}

    @override
    def doubts(self, thorough: bool = False) -> list[str]:
        scenes = {scene.folder: scene for scene in self._opened.values()}
        scenes = dict(sorted(scenes.items()))  # threads opened them in any order
        looked_at = subsample(list(scenes.values()), len(scenes) if thorough else _UNITS_CHECKED)
        found = [
            f"{scene.folder}: {reason}"
            for scene in looked_at
            if (reason := doubt_of(scene, self.near_mm, self.far_mm))
        ]
        more = f" ({len(found)} of {len(looked_at)} scenes looked at are doubtful)"
        return [found[0] + more] if found else []

    def _open(self, source: SceneFolder) -> ScanNetScene:
        if source not in self._opened:
            scene = open_scene(source.path, self.depth_scale)
            if source.part != "whole":
                first, last = hold_out(scene.frames)
                scene = replace(scene, frames=tuple(first if source.part == "first" else last))
            self._opened[source] = scene
        return self._opened[source]


def read_scene(
    scene: ScanNetScene, frames: Sequence[ScanNetFrame], rendering: dict[str, Any]
) -> dict[str, Frames]:
    """Colour and depth of the same frames; raises BadSample."""
    depth = depth_frames(scene, frames, **rendering)
    streams = read_colour(scene, frames)
    return streams | {"3d": Frames(depth, streams["video"].times)}


def read_colour(scene: ScanNetScene, frames: Sequence[ScanNetFrame]) -> dict[str, Frames]:
    """Colour only; raises BadSample."""
    times = tuple(frame.id / _RATE for frame in frames)
    return {"video": Frames(colour_frames(scene, frames), times)}


def _name(scene: ScanNetScene, frames: Sequence[ScanNetFrame]) -> str:
    return f"{scene.name}/{','.join(str(frame.id) for frame in frames)}"


def _files(scene: ScanNetScene, frames: Sequence[ScanNetFrame], *parts: str) -> tuple[Path, ...]:
    images = (getattr(frame, part) for frame in frames for part in parts)
    return (scene.intrinsics_file, *images)
