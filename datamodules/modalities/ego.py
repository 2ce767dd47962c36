"""Egocentric video as a modality, with video from cameras around the person (Ego-Exo4D)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from datamodules.media.paths import check_folder, in_any_case, inside
from datamodules.media.sampling import At, Uniform
from datamodules.media.video import Request, read_video
from datamodules.modalities.modality import FrameSpec, Modality
from datamodules.samples import BadSample, Clip, Episode, Frames, Split, Streams
from datamodules.signals.views import views
from datamodules.splits import hold_out
from vlynx_pl.io.errors import UserError

_SMALL = Path("downscaled", "448")  # where Ego-Exo4D's own tool puts copies with 448 lines
_MISSING = 1.0  # s that a view may end before the last timestamp
EXO = ("exo1", "exo2", "exo3", "exo4")


@dataclass(frozen=True)
class Take:
    """A recording of a skilled person, filmed by one camera on the person and up to four others."""

    name: str
    path: Path  # folder of the videos
    named: tuple[tuple[str, Path], ...] = ()  # (view, file) as an annotation names them
    root: Path | None = None  # of the data, where an annotation names the take

    def views(self) -> dict[str, Path]:
        """The videos of those of ``ego`` and ``exo1`` … ``exo4`` that exist.

        Without annotations, ego is the colour camera of the Aria glasses, and the others are
        ordered by name; other cameras of the glasses and previews are not views.

        Raises:
            BadSample: an annotated video is missing, or there is no video.
        """
        if self.path.is_file():
            check_folder(self.path, "Give the folder of the take's videos")
        if self.named:
            return {view: self._file(path) for view, path in self.named}
        files = sorted(_videos(self.path) or _videos(self.path / _SMALL))
        files = [self._file(file) for file in files]
        ego = [file for file in files if re.fullmatch(r"aria.*_214-1", file.stem)]
        exo = [file for file in files if re.match(r"cam|gp", file.stem)]
        if not ego and not exo:
            raise BadSample(
                self.path,
                "holds no aria*_214-1.mp4, cam*.mp4 or gp*.mp4",
                "Download the take, or leave it out",
                "missing",
            )
        return dict(zip(("ego",), ego, strict=False)) | dict(zip(EXO, exo, strict=False))

    def _file(self, path: Path) -> Path:
        """The file, or its smaller copy, which most people download."""
        for candidate in (path, path.parent / _SMALL / path.name):
            found = in_any_case(candidate)
            if found is not None:
                if self.root is None:
                    return found
                return inside(self.root, str(found.relative_to(self.root)), self.root)
        raise BadSample(path, "is missing", "Download it, or leave it out", "missing")


@dataclass(frozen=True, kw_only=True)
class Ego(Modality):
    """Views of Ego-Exo4D takes: some are the RGB stream, others are the modality.

    Without a benchmark, ``root`` holds ``takes/<take>/frame_aligned_videos/*.mp4``, or smaller
    copies in ``downscaled/448``; see :meth:`Take.views`.

    The ``frames`` are evenly spaced over the first view, at the same timestamps in all views. If a
    view is up to a second shorter, an episode lacks the timestamps after its end, in all streams;
    a view that is even shorter makes the take bad.

    Args:
        rgb_views: cameras of the RGB stream; a take needs one of them.
        modality_views: cameras of the modality; a take needs one of them.
    """

    name: ClassVar[str] = "ego"

    rgb_views: tuple[str, ...] = EXO
    modality_views: tuple[str, ...] = ("ego",)

    def __post_init__(self) -> None:
        for view in (*self.rgb_views, *self.modality_views):
            if view not in {"ego", *EXO}:
                raise UserError(f"{view!r} is not a view; there are ego, {', '.join(EXO)}")

    @property
    @override
    def rendering_settings(self) -> dict[str, Any]:
        return {"views": list(self.modality_views)}

    @override
    def find(self, root: Path) -> Mapping[Split, list[Take]]:
        folders = sorted(root.glob("takes/*/frame_aligned_videos"))
        if not folders:
            raise BadSample(
                root,
                "holds no takes/<take>/frame_aligned_videos",
                "Give the folder that holds Ego-Exo4D's takes/",
                "missing",
            )
        train, val = hold_out([Take(folder.parent.name, folder) for folder in folders])
        return {"train": train, "val": val}

    @override
    def locate(self, root: Path, episode: Episode) -> Take:
        if "take" in episode.media:  # the test split gives only the names of takes
            folder = inside(root, episode.media["take"], root)
            return Take(episode.name, folder / "frame_aligned_videos", root=root)
        named = [(view, inside(root, name, root)) for view, name in episode.media.items()]
        return Take(episode.name, named[0][1].parent, tuple(named), root)

    @override
    def clips(self, source: Take, spec: FrameSpec) -> list[Clip]:
        return _clips(source, self.modality_views, spec)

    @override
    def reference_clips(self, source: Take, spec: FrameSpec) -> list[Clip]:
        return _clips(source, self.rgb_views, spec)

    @override
    def streams(self, source: Take, spec: FrameSpec) -> Streams:
        return _streams(source, {"video": self.rgb_views, "ego": self.modality_views}, spec)

    @override
    def streams_from(self, files: Mapping[str, Path], spec: FrameSpec, wanted: bool) -> Streams:
        views = {"video": self.rgb_views}
        if wanted:
            views["ego"] = self.modality_views
        filmed = [view for names in views.values() for view in names]
        named = [(view, files["video"]) for view in filmed if view != "ego"][:1]
        if "ego" in filmed:
            named.append(("ego", files["ego"]))
        path = named[0][1]
        return _streams(Take(path.name, path.parent, tuple(named)), views, spec)


def read_views(
    streams: Mapping[str, Sequence[Path]], frames: int, size: tuple[int, int]
) -> dict[str, Frames]:
    """Read streams of several views each, all at the timestamps of the first view.

    Timestamps after the end of the shortest view are left out of all of them.

    Raises:
        BadSample: a view cannot be used, or ends more than a second before the last timestamp.
    """
    first = next(iter(streams.values()))[0]
    times = read_video(first, [Request(Uniform(frames), size)]).streams[0].times
    wanted = Request(At(times, _MISSING), size)
    cameras = {
        name: [read_video(path, [wanted]).streams[0].pixels for path in paths]
        for name, paths in streams.items()
    }
    seen = times[: min(len(camera) for stream in cameras.values() for camera in stream)]
    return {
        name: Frames(
            views([camera[: len(seen)] for camera in stream]),
            tuple(time for time in seen for _ in stream),
        )
        for name, stream in cameras.items()
    }


def _streams(take: Take, wanted: Mapping[str, Sequence[str]], spec: FrameSpec) -> Streams:
    streams = {name: _paths(take, views) for name, views in wanted.items()}
    read = partial(read_views, streams, spec.frames, spec.size)
    return Streams(read, tuple(path for paths in streams.values() for path in paths))


def _clips(take: Take, wanted: Sequence[str], spec: FrameSpec) -> list[Clip]:
    """One clip per view, since takes have different numbers of views."""
    return [
        Clip(f"{take.name}/{path.stem}", partial(_read_view, path, spec), (path,))
        for path in _paths(take, wanted)
    ]


def _read_view(path: Path, spec: FrameSpec) -> Tensor:
    return read_video(path, [Request(Uniform(spec.frames), spec.size)]).streams[0].pixels


def _videos(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return [path for path in paths if path.suffix.lower() == ".mp4"]


def _paths(take: Take, wanted: Sequence[str]) -> list[Path]:
    views = take.views()
    paths = [views[view] for view in wanted if view in views]
    if not paths:
        raise BadSample(
            take.path,
            f"take {take.name} has none of the views {', '.join(wanted)}, only {', '.join(views)}",
            "Leave it out, or ask for other views",
            "missing",
        )
    return paths
