"""A modality whose recordings are files of their own: one of your own is a pattern and `render`."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from datamodules.media.files import find_media, media_file
from datamodules.media.paths import check_folder
from datamodules.media.sampling import Uniform
from datamodules.modalities.modality import FrameSpec, Modality
from datamodules.modalities.video import VideoSource, read_rgb
from datamodules.samples import BadSample, Clip, Split
from datamodules.splits import hold_out


@dataclass(frozen=True, kw_only=True)
class FileModality(Modality):
    """A modality for alignment whose recordings are files beside the videos.

    ``root`` holds the recordings. Their videos have the same names and lie in ``root/videos``, or
    any videos lie in ``reference_root``.
    """

    small_folder: ClassVar[int] = 50  # recordings that are read within seconds
    pattern: ClassVar[str]
    """The names of recordings, such as ``*.csv``."""

    @abstractmethod
    def render(self, path: Path, spec: FrameSpec) -> Tensor:
        """Return the frames of a recording, uint8 (T, 3, h, w) of any size; raises BadSample."""

    @override
    def find(self, root: Path) -> Mapping[Split, list[VideoSource]]:
        check_folder(root, f"Give the folder that holds {self.pattern}")
        recordings = [(path.name, path) for path in sorted(root.glob(self.pattern))]
        found = recordings or find_media(root)  # a reference_root holds videos only
        train, val = hold_out([VideoSource(name, path, found=True) for name, path in found])
        return {"train": train, "val": val}

    @override
    def clips(self, source: VideoSource, spec: FrameSpec) -> list[Clip]:
        if not source.path.match(self.pattern):
            raise BadSample(
                source.path,
                f"is in a folder without {self.pattern}, the recordings of {self.name}",
                "Give their folder as data.root, and that of the videos as data.reference_root",
                "missing",
            )
        return [Clip(source.name, partial(self.render, source.path, spec), (source.path,))]

    @override
    def reference_clips(self, source: VideoSource, spec: FrameSpec) -> list[Clip]:
        path = source.path
        if path.match(self.pattern):
            try:
                path = media_file(path.parent, path.stem)
            except BadSample as bad:
                if bad.trouble != "missing":
                    raise
                return []  # a recording may lack a video
        read = partial(read_rgb, VideoSource(source.name, path), Uniform(spec.frames), spec.size)
        return [Clip(source.name, read, (path,))]
