"""Depth as a modality: ScanNet scenes as frames of disparity and normals (paper section 4)."""

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

_LOOKED_AT: Final = 8  # scenes whose unit is looked at before a run
_RATE: Final = 30.0  # Hz, at which ScanNet was recorded; frames are numbered at this rate


@dataclass(frozen=True)
class SceneFolder:
    """A scene, or a part of its frames where there is one scene only."""

    path: Path
    part: Literal["whole", "first", "last"] = "whole"

    @property
    def name(self) -> str:
        """The scene's."""
        return self.path.absolute().name


@dataclass(frozen=True, kw_only=True)
class Depth(Modality):
    """Depth of ScanNet scenes, and their colour as video.

    Without a benchmark, scenes of ``scannetv2_train.txt`` in the root are for training, those of
    ``scannetv2_val.txt`` are held out, others are not read. Without lists the last 20 % of the
    scenes by name are held out, at least one; of a single scene, the last 20 % of its frames. The
    reference videos are always from training scenes.

    Frames without a usable pose, or without depth in any pixel, are dropped whatever the encoding,
    as ScanNet's users do: without tracking there is often motion blur, and all stages then see the
    same frames. Both are known when a scene is opened, see
    :func:`datamodules.media.scannet.open_scene`.

    A 16-bit picture does not say in which unit it counts. Three frames of eight scenes (of all, in
    ``vlynx check``) are looked at before the first step, and a warning says where another unit is
    more probable, see :func:`datamodules.media.depth_units.doubt`.

    An episode has ``frames`` of a scene: those whose cameras are farthest from each other (see
    :func:`datamodules.media.pose_sampling.farthest_points`), or all, where there are fewer.

    Args:
        encoding: how a depth frame is drawn; ``turbo+normals`` gives two frames, in this order;
            tuning averages their tokens. The released scripts use it; the paper names only
            disparity with a colour table.
        near_mm: nearest depth in mm that keeps its own colour.
        far_mm: farthest depth in mm that keeps its own colour.
        normal_frame: axes of the normals.
        depth_scale: units per metre of the depth files: 1000 is mm; or ``sun``, mm with the rotated
            bits of SUN RGB-D. What is drawn is mm whatever the files have, so stages whose data
            differ in it agree.
        frames_per_sample: depth frames of a clip of alignment, which uses all frames. The last clip
            of a scene ends at its last frame, and overlaps the one before where the count does not
            divide.
        reference_frames: colour frames of a reference video; a scene's last may be shorter.
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
        """Check the numbers."""
        check_range(self.near_mm, self.far_mm)
        check_scale(self.depth_scale)
        if min(self.frames_per_sample, self.reference_frames) < 1:
            raise UserError(
                f"frames_per_sample={self.frames_per_sample} and "
                f"reference_frames={self.reference_frames} must be 1 or more"
            )

    @property
    def _drawn_with(self) -> dict[str, Any]:
        return {
            "encoding": self.encoding,
            "near_mm": self.near_mm,
            "far_mm": self.far_mm,
            "normal_frame": self.normal_frame,
        }

    @property
    @override
    def drawing(self) -> dict[str, Any]:
        other = "normal_frame" if self.encoding in {"turbo", "gray"} else ""
        return {name: value for name, value in self._drawn_with.items() if name != other}

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
        draw = partial(depth_frames, scene, **self._drawn_with)
        return [
            Clip(_name(scene, part), partial(draw, part), _files(scene, part, "depth", "pose"))
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
        read = partial(read_scene, scene, chosen, self._drawn_with)
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
        scenes = dict(sorted(scenes.items()))  # they were opened in threads
        looked_at = subsample(list(scenes.values()), len(scenes) if thorough else _LOOKED_AT)
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
    scene: ScanNetScene, frames: Sequence[ScanNetFrame], drawing: dict[str, Any]
) -> dict[str, Frames]:
    """Colour and depth of the same frames; raises BadSample."""
    pictures = depth_frames(scene, frames, **drawing)
    streams = read_colour(scene, frames)
    return streams | {"3d": Frames(pictures, streams["video"].times)}


def read_colour(scene: ScanNetScene, frames: Sequence[ScanNetFrame]) -> dict[str, Frames]:
    """Colour alone; raises BadSample."""
    times = tuple(frame.id / _RATE for frame in frames)
    return {"video": Frames(colour_frames(scene, frames), times)}


def _name(scene: ScanNetScene, frames: Sequence[ScanNetFrame]) -> str:
    return f"{scene.name}/{','.join(str(frame.id) for frame in frames)}"


def _files(scene: ScanNetScene, frames: Sequence[ScanNetFrame], *parts: str) -> tuple[Path, ...]:
    pictures = (getattr(frame, part) for frame in frames for part in parts)
    return (scene.intrinsics_file, *pictures)
