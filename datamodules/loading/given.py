"""Files that a user names, or that a stranger has sent, as the streams of a run."""

import resource
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datamodules.loading.reading import resize_ignoring_aspect
from datamodules.media.archive import extract_scene
from datamodules.media.container import open_media
from datamodules.modalities.modality import Modalities
from datamodules.samples import BadSample, Streams
from vlynx_pl.io.errors import UserError

KINDS: Final = {
    "video": "a video file",
    "audio": "a file with its sound",
    "depth": "the folder of a scene in ScanNet's exported layout",
    "ego": "the video of the person's own view",
}
"""The kinds of files that :meth:`Modality.streams_from` takes."""


class GivenFiles(dict[str, Path]):
    """Kind → path; looking up a missing one raises a UserError.

    Args:
        run: that reads them, for messages.
        given: kind → path, or None if it is not given.
        sign: before a kind in messages, such as ``--`` for options.

    Raises:
        UserError: a file or folder does not exist, or two kinds name the same one.
    """

    def __init__(self, run: Path | str, given: Mapping[str, Path | None], sign: str = "--") -> None:
        super().__init__({kind: path for kind, path in given.items() if path is not None})
        self.run, self.sign = run, sign
        for kind, path in self.items():
            if not (path.is_dir() if kind == "depth" else path.is_file()):
                raise UserError(f"{sign}{kind} {path}: does not exist, or is not {KINDS[kind]}")
        if len({path.resolve() for path in self.values()}) < len(self):
            raise UserError("two options name the same file; give each file once")

    def __missing__(self, kind: str) -> Path:
        raise UserError(f"{self.run} needs {self.sign}{kind}, {KINDS[kind]}; add it")


def given_streams(modalities: Modalities, wanted: Collection[str], files: GivenFiles) -> Streams:
    """The streams that a run makes of files, unread.

    Args:
        modalities: of the run.
        wanted: those that it was tuned with.
        files: of one clip.

    Raises:
        UserError: a file is missing or not used.
        BadSample: a file cannot be used.
    """
    streams = modalities.streams_from(files, wanted)
    opened = {path for file in streams.files for path in (file, *file.parents)}
    if unused := [kind for kind, path in files.items() if path not in opened]:
        used = " and ".join(f"{files.sign}{kind}" for kind in files if kind not in unused)
        raise UserError(
            f"{files.run} does not use {files.sign}{unused[0]}, leave it out; its streams, "
            f"{' and '.join(['video', *wanted])}, come from {used}"
        )
    return streams


@dataclass(frozen=True)
class SentClip:
    """Files of a clip that a stranger has sent.

    Args:
        folder: holds nothing else; whoever made it removes it.
        sent: kind → file in the folder; ``depth`` is a zip of a scene in ScanNet's layout.
    """

    folder: Path
    sent: Mapping[str, Path]
    name = "a clip that was sent"

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.sent.values())


@dataclass(frozen=True)
class ReadSent:
    """Reads a clip that a stranger has sent, in a process that may be lost.

    Args:
        run: that reads it, for messages.
        modalities: of the run.
        wanted: those that it was tuned with.
        seconds: the longest video or sound.
        unpacked: bytes of a scene's files, at most.
        memory: bytes that reading may take.
    """

    run: str
    modalities: Modalities
    wanted: tuple[str, ...]
    seconds: float
    unpacked: int
    memory: int

    def __call__(self, clip: SentClip) -> dict[str, Any]:
        """Read it.

        Returns:
            ``streams``, name → uint8 (T, 3, H, W); ``times`` of each in s; and ``doubts``, messages
            about what is readable but probably wrong.

        Raises:
            UserError: a file is missing, not used, too long or cannot be read.
        """
        limit_memory(self.memory)
        paths = dict(clip.sent)
        for kind in paths.keys() - {"depth"}:
            self._check_length(paths[kind])
        if "depth" in paths:
            scene = clip.folder / "scene"
            scene.mkdir()
            paths["depth"] = extract_scene(paths["depth"], scene, self.unpacked)
        files = GivenFiles(self.run, paths, sign="")
        read = given_streams(self.modalities, self.wanted, files).read()
        size = self.modalities.spec.size
        return {
            "streams": {
                name: resize_ignoring_aspect(stream.pixels, size) for name, stream in read.items()
            },
            "times": {name: stream.times for name, stream in read.items()},
            "doubts": self.modalities.doubts(),
        }

    def _check_length(self, path: Path) -> None:
        """Refuse what its header calls too long; the time that reading takes is limited as well."""
        with open_media(path) as file:
            seconds = (file.duration or 0) / 1_000_000
        if seconds > self.seconds:
            reason = f"lasts {seconds:.0f} s; {self.seconds:.0f} s are accepted"
            raise BadSample(path, reason, "Cut it to the part that you ask about")


def limit_memory(more: int) -> None:
    """Let this process map at most ``more`` bytes beyond what it has mapped."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
