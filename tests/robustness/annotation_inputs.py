"""Annotation files in every official layout, with the media that they name."""

from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from tests.datamodules.benchmarks.official_layouts import OFFICIAL, Official
from tests.robustness import readings
from tests.robustness.inputs import Original, read_files
from tests.robustness.media_inputs import encode
from tests.robustness.scene_inputs import scene

_VIEWS = ("aria01_214-1", "cam01")


def annotations() -> list[Original]:
    """Return up to two files of every benchmark."""
    clip = encode(".mp4", ("libx264", {}), None, fps=2)
    return [original for official in OFFICIAL.values() for original in _files(official, clip)]


def _files(official: Official, clip: bytes) -> list[Original]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        benchmark = official.open(folder / "annotations")
        read = [str(path.relative_to(folder)) for path in benchmark.files(official.split)]
        media = [episode.media for episode in benchmark.episodes(official.split)]
        files = read_files(folder)
    for role, name in {item for named in media for item in named.items()}:
        if role == "scene":
            files |= scene(f"media/{name}")
        elif role == "take":
            files |= {f"media/{name}/frame_aligned_videos/{view}.mp4": clip for view in _VIEWS}
        else:
            files[f"media/{name}"] = clip
    stems = tuple(sorted({PurePath(name).stem for named in media for name in named.values()}))
    lean = official._replace(files=dict.fromkeys(official.files))
    ask = partial(readings.ask, official=lean)  # small, since it is sent to another process
    return [
        Original(
            "table" if name.endswith(".parquet") else "annotations", name, files, (ask,), stems
        )
        for name in read[:2]
    ]
