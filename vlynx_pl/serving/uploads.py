"""Uploaded files, named by their content; the oldest are removed when there are too many.

Names that clients give are never used as paths.
"""

import hashlib
import shutil
import time
from collections import OrderedDict
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock
from typing import BinaryIO, NamedTuple
from uuid import uuid4

from vlynx_pl.serving.errors import refused
from vlynx_pl.serving.limits import MIB, Limits


class Upload(NamedTuple):
    """A file that a client has sent."""

    id: str
    path: Path
    bytes: int
    created: int  # s since 1970
    name: str  # that the client gave it


class Uploads:
    """Files in a temporary folder, which ends with the server; used from any thread.

    Args:
        limits: of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._temporary = TemporaryDirectory(prefix="vlynx-serve-")
        self.folder = Path(self._temporary.name)
        self._files: OrderedDict[str, Upload] = OrderedDict()
        self._lock = RLock()

    def store(self, source: BinaryIO, name: str) -> Upload:
        """Copy a file to the disk, and remove the oldest if there are too many.

        A request may be cancelled meanwhile, but not the thread that writes, so the file counts as
        soon as it has its name.

        Raises:
            HTTPException: it is empty or too large.
        """
        unnamed = self.folder / f"{uuid4().hex}.unfinished"
        digest, size = hashlib.sha256(), 0
        try:
            with unnamed.open("xb") as target:
                while piece := source.read(MIB):
                    size += len(piece)
                    if size > self._limits.upload:
                        most = f"{self._limits.upload / MIB:.0f} MiB"
                        raise refused(413, f"the file is larger than {most}; send a smaller one")
                    digest.update(piece)
                    target.write(piece)
            if not size:
                raise refused(400, "the file is empty; send a video, a sound or a zip of a scene")
            path = self.folder / digest.hexdigest()
            upload = Upload(f"file-{digest.hexdigest()}", path, size, int(time.time()), name)
            with self._lock:
                unnamed.replace(path)
                self._files[upload.id] = upload
                self._files.move_to_end(upload.id)
                while sum(one.bytes for one in self._files.values()) > self._limits.stored:
                    self.remove(next(iter(self._files)))
        finally:
            unnamed.unlink(missing_ok=True)
        return upload

    def get(self, name: str) -> Upload:
        """A file by its id; raises HTTPException if there is none."""
        with self._lock:
            if name not in self._files:
                raise refused(404, f"there is no file {name!r:.80}; upload it to /v1/files again")
            self._files.move_to_end(name)
            return self._files[name]

    def remove(self, name: str) -> None:
        """Remove a file; raises HTTPException if there is none."""
        with self._lock:
            self.get(name).path.unlink(missing_ok=True)
            del self._files[name]

    def reading_folder(self, given: dict[str, str]) -> "ReadingFolder":
        """Make a folder in which files can be read, even if they are removed meanwhile.

        Args:
            given: kind → id.

        Raises:
            HTTPException: a file is missing.
        """
        folder = self.folder / f"{uuid4().hex}.reading"
        with self._lock:
            uploads = {kind: self.get(name) for kind, name in given.items()}
            folder.mkdir()
            for kind, upload in uploads.items():
                (folder / kind).hardlink_to(upload.path)
        return ReadingFolder(folder, {kind: folder / kind for kind in uploads})

    def close(self) -> None:
        """Remove everything."""
        self._temporary.cleanup()


class ReadingFolder(NamedTuple):
    """A folder with the files of one clip, named by their kinds."""

    path: Path
    files: dict[str, Path]

    def remove(self) -> None:
        """Remove it with what was unpacked in it."""
        shutil.rmtree(self.path, ignore_errors=True)
