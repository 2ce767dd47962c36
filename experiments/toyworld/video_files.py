"""Writes toy videos as MP4: H.264 and AAC, the same bytes for the same frames and sound."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.libraries import import_library

SAMPLE_RATE = 16_000  # Hz
_SOUND_BITS = 96_000  # per second, enough for AAC to keep quiet notes
# With several threads or version stamps the bytes would depend on the machine. A constant rate
# factor of 10 is far below visible loss, since small frames have no details to spare.
_FRAME_OPTIONS = {
    "crf": "10",
    "preset": "veryfast",
    "threads": "1",
    "flags": "+bitexact",
    "x264-params": "cpu-independent=1",
}
_SOUND_OPTIONS = {"threads": "1", "flags": "+bitexact"}


def write_video(
    path: Path,
    frames: NDArray[np.uint8],
    fps: float,
    waveform: NDArray[np.float32] | None = None,
) -> None:
    """Write an MP4 file under a temporary name, and rename it when it is complete.

    Args:
        path: file to write; its folder is created.
        frames: (T, H, W, 3) sRGB; H and W are even.
        fps: frames per second.
        waveform: (N,) mono samples in −1…1 at 16 kHz; None for a video without sound.

    Raises:
        OSError: the file cannot be written.
        ValueError: H or W is odd, which chroma subsampling does not allow.
    """
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"frames of shape {frames.shape} have an odd side; give an even one")
    # Encoded in memory, so that a full disk raises OSError rather than an error of FFmpeg.
    content = _mp4(frames, fps, waveform)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _mp4(frames: NDArray[np.uint8], fps: float, waveform: NDArray[np.float32] | None) -> bytes:
    av = import_library("av")
    file = io.BytesIO()
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(file, "w", "mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate, options=dict(_FRAME_OPTIONS))
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        if waveform is not None:  # streams must be declared before the first packet
            sound = container.add_stream(
                "aac", SAMPLE_RATE, options=dict(_SOUND_OPTIONS), layout="mono"
            )
            sound.bit_rate = _SOUND_BITS
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            # The encoder's own conversion may give other bytes for the same frame.
            container.mux(video.encode(frame.reformat(format="yuv420p")))
        container.mux(video.encode(None))
        if waveform is not None:
            samples = np.ascontiguousarray(waveform[None], np.float32)
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
            frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return file.getvalue()
