"""The mean of sound channels, and whether it can stand for them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.media.container import DAMAGED
from datamodules.samples import BadSample

NOISE = 2 / 32768
"""Two steps of 16-bit sound, -84 dB of full scale, which is as far as dither alone goes."""
# Of the power that the sum of unrelated channels has: 1 where they are unrelated or only one
# sounds, C where C are equal, 1 + r in stereo of correlation r. What lossy codecs leave of
# channels that cancel out is less, and no recording of a scene comes near.
_LEAST_POWER = 0.1
# Times full scale, +30 dB: no float sound is mixed that hot, no 16-bit integers are that quiet.
_HIGHEST_PEAK = 32.0


class ChannelMean:
    """The mean of channels, piece by piece; of the channels themselves only sums are kept.

    Args:
        channels: how many there are.
    """

    def __init__(self, channels: int) -> None:
        self._pieces: list[NDArray[np.float32]] = []
        self._sums, self._squares = np.zeros((2, channels))
        self._peak, self.count = 0.0, 0  # of samples

    def add(self, samples: NDArray[np.float32]) -> None:
        """Add float32 (N, C), full scale is -1 to 1."""
        self._pieces.append(samples.mean(1))
        self.count += len(samples)
        wide = samples.astype(np.float64)
        self._sums += wide.sum(0)
        self._squares += np.einsum("nc,nc->c", wide, wide)
        self._peak = max(self._peak, float(np.abs(samples).max(initial=0)))

    def waveform(self, path: Path) -> NDArray[np.float32]:
        """The mean, float32 (N,).

        Raises:
            BadSample: of ``path``: a sample is no number, samples are integers that were stored as
                floats, or the channels cancel out.
        """
        mean = np.concatenate([np.zeros(0, np.float32), *self._pieces])
        if not np.isfinite(mean).all():
            raise BadSample(path, "has sound that is no number", DAMAGED)
        if self._peak > _HIGHEST_PEAK:
            raise BadSample(
                path,
                f"has samples up to {self._peak:.6g}, where full scale is 1: integers stored as "
                "floats, or damage",
                "Divide integers by their range, 32768 for 16 bits: ffmpeg -i IN -af "
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
        """Power of the channels' sum, as a share of the sum of their powers, without offsets."""
        count = max(len(mean), 1)
        powers = self._squares / count - (self._sums / count) ** 2
        total = float(powers.sum())
        return len(powers) ** 2 * float(mean.var(dtype=np.float64)) / total if total > 0 else 1.0
