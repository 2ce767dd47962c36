import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from torchaudio.transforms import MelSpectrogram

from datamodules.signals import log_mel

RATE = 16_000


def tone(hertz: float, seconds: float, amplitude: float = 0.5) -> torch.Tensor:
    times = torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE
    return amplitude * (2 * math.pi * hertz * times).sin()


def whole_recording(waveform, times, window, scale):
    """The same frames, cut from the spectrogram of the whole recording."""
    transform = MelSpectrogram(RATE, n_fft=1024, win_length=400, hop_length=160, n_mels=128)
    loudness = ((transform(waveform).clamp(min=1e-10).log() + 4.268) / 9.138).flip(0)
    width = min(round(100 * window), loudness.shape[1])
    frames = []
    for time in times:
        start = max(0, min(round(100 * (time - window / 2)), loudness.shape[1] - width))
        frame = loudness[:, start : start + width]
        low, high = (-1.5, 1.5) if scale == "fixed" else (frame.min(), frame.max())
        frames.append((255 * ((frame - low) / (high - low)).clamp(0, 1)).round())
    return torch.stack(frames)[:, None].expand(-1, 3, -1, -1)


@given(
    st.integers(RATE // 10, 6 * RATE),
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.sampled_from([0.01, 0.3, 1.0, 2.0, 9.0]),
    st.sampled_from(["fixed", "min-max"]),
)
def test_frames_are_cut_from_the_whole_recording(samples, shares, window, scale):
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) / 10
    duration, reach = samples / RATE, 0.49 * window  # beyond the recording
    times = [share * (duration + 2 * reach) - reach for share in shares]
    wanted = whole_recording(waveform, times, window, scale)
    # The sums over a band may be taken in another order, 1e-7 apart, and then be rounded apart.
    assert (log_mel(waveform, times, window, scale) - wanted).abs().max() <= 1


def test_more_than_a_minute_without_a_gap_is_seamless():
    waveform = torch.randn(63 * RATE, generator=torch.Generator().manual_seed(0)) / 10
    times = [float(second) for second in range(64)]
    wanted = whole_recording(waveform, times, 2.0, "fixed")
    assert (log_mel(waveform, times) - wanted).abs().max() <= 1


@pytest.mark.parametrize(
    ("times", "seconds"), [([30.0], 2), ([3.0, 50.0], 4), ([9.0, 10.0], 3), ([0.0, 0.5, 1.0], 2)]
)
def test_only_what_the_windows_show_is_transformed_and_only_once(times, seconds):
    with FlopCounterMode(display=False) as counter:
        log_mel(torch.zeros(60 * RATE), times)
    assert counter.get_total_flops() == seconds * 100 * 2 * 513 * 128, "of the mel filters"


@pytest.mark.parametrize("hertz", [100, 1000, 7000])
def test_a_tone_is_a_line_at_its_height(hertz):
    (frame,) = log_mel(tone(hertz, 3), [1.5])
    mel = 2595 * math.log10(1 + hertz / 700) / (2595 * math.log10(1 + 8000 / 700))
    row = int(frame[0, :, 100].argmax())
    assert row == pytest.approx(128 * (1 - mel), abs=2), "low frequencies are at the bottom"


def test_no_band_is_empty():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torchaudio warns of filters without a bin
        (frame,) = log_mel(torch.randn(3 * RATE) / 10, [1.5])
    assert (frame > 0).all()


def test_windows_at_the_ends_stay_inside_and_nothing_is_padded():
    waveform = torch.randn(5 * RATE) / 10
    first, second, last, later = log_mel(waveform, [0.0, 1.0, 5.0, 5.4])
    assert torch.equal(first, second) and torch.equal(last, later)
    assert (torch.stack([first, last]).float().mean((1, 2)) > 60).all()
    assert log_mel(waveform[: RATE // 2], [0.1, 0.4]).shape == (2, 3, 128, 51)


def test_silence_is_black_on_either_scale():
    for scale in ("fixed", "min-max"):
        assert not log_mel(torch.zeros(2 * RATE), [1.0], scale=scale).any()


@pytest.mark.parametrize(
    ("waveform", "times", "words"),
    [
        (torch.zeros(2, RATE), [0.5], r"\(2, 16000\) is not a mono recording"),
        (torch.zeros(100), [0.0], "not a mono recording of 0.1 s"),
        (torch.zeros(RATE), [0.5, 9.0], "timestamp 9 s is not within the recording of 1 s"),
        (torch.zeros(RATE), [math.nan], "timestamp nan s"),
    ],
)
def test_what_cannot_be_drawn_is_refused(waveform, times, words):
    with pytest.raises(ValueError, match=words):
        log_mel(waveform, times)
