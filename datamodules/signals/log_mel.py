"""Sound drawn as log-mel spectrograms around given timestamps (paper section 4).

Alignment and tuning use the same front-end. Brightness is loudness on a fixed scale, so that loud
and quiet stay different; the released code stretches every frame to its own range.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.libraries import import_library

SAMPLE_RATE = 16_000  # Hz
MELS = 128
_HOP = 160  # samples, 10 ms
_FFT = 1024  # samples
_AT_ONCE = 60 * SAMPLE_RATE // _HOP  # columns; a minute takes 0.1 GB
_COLUMNS_PER_SECOND = SAMPLE_RATE // _HOP
# AudioSet statistics of ImageBind's front-end. Mean ± 1.5 deviations spans the noise of 16-bit
# samples, ln 1e-8, to a tone of full scale, ln 1e4.
_MEAN, _DEVIATION, _REACH = -4.268, 9.138, 1.5

Scale = Literal["fixed", "min-max"]


def log_mel(
    waveform: Tensor, times: Sequence[float], window: float = 2.0, scale: Scale = "fixed"
) -> Tensor:
    """Spectrograms of ``window`` seconds centred on each of ``times``.

    A window that would extend beyond the recording is moved inside, and one longer than the
    recording becomes the whole recording; nothing is padded. Only the columns in windows are
    computed, each once: a long recording costs no more than a short one.

    Args:
        waveform: (N,) mono samples in −1…1 at 16 kHz.
        times: F timestamps in s from the first sample, such as those of the RGB frames.
        window: length of a frame in s.
        scale: ``fixed`` maps loudness to brightness equally in all frames; ``min-max`` stretches
            each frame to 0…255, as the released code does.

    Returns:
        uint8 (F, 3, 128, W), W columns of 10 ms; low frequencies are at the bottom.

    Raises:
        ValueError: the waveform is too short or not mono, or a timestamp is outside it.
    """
    if waveform.ndim != 1 or len(waveform) < SAMPLE_RATE // 10:
        raise ValueError(
            f"a waveform of shape {tuple(waveform.shape)} is not a mono recording of 0.1 s or more "
            f"at {SAMPLE_RATE} Hz; mix its channels and resample it first"
        )
    duration = len(waveform) / SAMPLE_RATE
    outside = [time for time in times if not -window / 2 <= time <= duration + window / 2]
    if outside:
        raise ValueError(
            f"timestamp {outside[0]:g} s is not within the recording of {duration:g} s; give times "
            "from its first sample on"
        )
    available = len(waveform) // _HOP + 1
    columns = min(round(window * _COLUMNS_PER_SECOND), available)
    starts = [
        [min(max(round((t - window / 2) * _COLUMNS_PER_SECOND), 0), available - columns)]
        for t in times
    ]
    shown, where = torch.unique(  # (U,), (F, W)
        torch.tensor(starts) + torch.arange(columns), return_inverse=True
    )
    gaps = (shown.diff() > 1).nonzero().flatten() + 1
    runs = [part for run in shown.tensor_split(gaps) for part in run.split(_AT_ONCE)]
    power = torch.cat([_power(waveform, int(run[0]), int(run[-1])) for run in runs], 1).flip(0)
    loudness = (power.clamp(min=1e-10).log() - _MEAN) / _DEVIATION  # (128, U), in deviations
    windows = loudness[:, where].transpose(0, 1)  # (F, 128, W)
    low: Tensor | float = -_REACH
    high: Tensor | float = _REACH
    if scale == "min-max":
        low, high = windows.amin((1, 2), True), windows.amax((1, 2), True)
    share = ((windows - low) / (high - low)).nan_to_num(0).clamp(0, 1)  # silence has no range
    return (255 * share).round().to(torch.uint8)[:, None].repeat(1, 3, 1, 1)


def _power(waveform: Tensor, first: int, last: int) -> Tensor:
    """Columns ``first`` to ``last`` of the whole recording's spectrogram, (128, last - first + 1).

    Columns overlap; samples are mirrored only at the ends of the recording.
    """
    samples = torch.arange(first * _HOP - _FFT // 2, last * _HOP + _FFT // 2).abs_()
    end = len(waveform) - 1
    power: Tensor = _spectrogram()(waveform[end - (end - samples).abs_()].float())
    return power


@cache
def _spectrogram() -> Any:
    # ImageBind's windows of 25 ms, but a longer transform; otherwise low mel bands have no bin.
    return import_library("torchaudio.transforms").MelSpectrogram(
        SAMPLE_RATE, n_fft=_FFT, win_length=400, hop_length=_HOP, n_mels=MELS, center=False
    )
