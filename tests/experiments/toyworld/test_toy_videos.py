"""Toy videos: frames and sound are in time with each other, and the bytes are reproducible."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.libraries import import_library
from experiments.toyworld import render_scene, sample_scene
from experiments.toyworld.video_files import SAMPLE_RATE, write_video

FRAMES = render_scene(sample_scene(0, 0, 6)).colour
CLICK = 1.25  # s


def click() -> NDArray[np.float32]:
    """A short tone at a known time in 2 s."""
    t = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tone: NDArray[Any] = 0.5 * np.sin(2 * np.pi * 1000 * t) * (np.abs(t - CLICK) < 0.02)
    return tone.astype(np.float32)


def decode(path: Path) -> tuple[list[float], NDArray[np.uint8], list[float], NDArray[np.float32]]:
    """Times of frames, frames, times of blocks of samples, samples."""
    av = import_library("av")
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    with av.open(str(path)) as container:
        blocks = list(container.decode(audio=0)) if container.streams.audio else []
    return (
        [frame.time for frame in frames],
        np.stack([frame.to_ndarray(format="rgb24") for frame in frames]),
        [block.time for block in blocks],
        np.concatenate([np.zeros(0, np.float32), *(block.to_ndarray()[0] for block in blocks)]),
    )


def test_frames_keep_their_timestamps_and_colours(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", FRAMES, 3)
    times, frames, blocks, _ = decode(tmp_path / "v.mp4")
    assert times == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3], abs=1e-3)
    assert frames.shape == FRAMES.shape
    off = np.abs(frames.astype(int) - FRAMES)
    assert off.mean() < 3  # edges between colours
    assert np.median(off) <= 1
    assert blocks == []


def test_sound_is_where_it_was_put(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", FRAMES, 3, click())
    _, _, times, samples = decode(tmp_path / "v.mp4")
    assert times[0] == 0
    loud = np.flatnonzero(np.abs(samples) > 0.2) / SAMPLE_RATE
    assert (loud[0] + loud[-1]) / 2 == pytest.approx(CLICK, abs=2e-3)
    assert len(samples) / SAMPLE_RATE == pytest.approx(2, abs=0.07)  # a block of AAC is 64 ms


def test_the_same_video_has_the_same_bytes(tmp_path: Path) -> None:
    for name in "abcdef":
        write_video(tmp_path / name, FRAMES, 3, click())
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_an_incomplete_video_has_no_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_video(tmp_path / "v.mp4", FRAMES, 3)
    assert not (tmp_path / "v.mp4").exists()


def test_odd_sides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="odd side"):
        write_video(tmp_path / "v.mp4", FRAMES[:, :63], 3)
