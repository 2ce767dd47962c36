"""The mean of sound channels, and whether it represents them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.media.container import DAMAGED
from datamodules.samples import BadSample

NOISE = 2 / 32768
"""Two steps of 16-bit sound, -84 dB of full scale: the most that dither alone reaches."""
# Power of the channels' sum, relative to the sum of their powers: 1 if they are unrelated or only
# one sounds, C for C equal channels, 1 + r for stereo of correlation r. Lossy codecs leave less of
# channels that cancel out; recordings of a scene have far more.
_LEAST_POWER = 0.1
# Times full scale, +30 dB: above any float mix, below any 16-bit integers.
_HIGHEST_PEAK = 32.0


class ChannelMean:
    """Average channels piece by piece.

    Args:
        channels: their number.
    """

    def __init__(self, channels: int) -> None:
        self._pieces: list[NDArray[np.float32]] = []
        self._sums, self._squares = np.zeros((2, channels))
        self._peak, self.count = 0.0, 0  # of samples

    def add(self, samples: NDArray[np.float32]) -> None:
        """Add float32 (N, C) with a full scale of -1 to 1."""
        self._pieces.append(samples.mean(1))
        self.count += len(samples)
        wide = samples.astype(np.float64)
        self._sums += wide.sum(0)
        self._squares += np.einsum("nc,nc->c", wide, wide)
        self._peak = max(self._peak, float(np.abs(samples).max(initial=0)))

    def waveform(self, path: Path) -> NDArray[np.float32]:
        """The mean, float32 (N,).

        Raises:
            BadSample: of ``path``: a sample is not a number, samples are integers stored as floats,
                or the channels cancel out.
        """
        mean = np.concatenate([np.zeros(0, np.float32), *self._pieces])
        if not np.isfinite(mean).all():
            raise BadSample(path, "has samples that are not numbers", DAMAGED)
        if self._peak > _HIGHEST_PEAK:
            raise BadSample(
                path,
                f"has samples up to {self._peak:.6g}, where full scale is 1: integers stored as "
                "floats, or damage",
                "Divide integers by their range (32768 for 16 bits): ffmpeg -i IN -af "
                "volume=1/32768 -c:a pcm_f32le OUT; or copy the file again",
            )
        if self._peak > NOISE and (share := self._share(mean)) < _LEAST_POWER:
            raise BadSample(
                path,
                f"has channels that cancel out: their sum has {share:.2%} of their power",
                "Take one of them: ffmpeg -i IN -c:v copy -af 'pan=mono|c0=c0' OUT; or leave the "
                "file out (data.on_bad_sample=skip)",
                "antiphase",
            )
        return mean

    def _share(self, mean: NDArray[np.float32]) -> float:
        """Power of the channels' sum relative to the sum of their powers, without offsets."""
        count = max(len(mean), 1)
        powers = self._squares / count - (self._sums / count) ** 2
        total = float(powers.sum())
        return len(powers) ** 2 * float(mean.var(dtype=np.float64)) / total if total > 0 else 1.0
