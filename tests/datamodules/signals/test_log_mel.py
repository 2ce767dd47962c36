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
    moments = torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE
    return amplitude * (2 * math.pi * hertz * moments).sin()


def test_it_is_torchaudios_spectrogram_in_deviations_of_imagebind():
    waveform = torch.randn(4 * RATE, generator=torch.Generator().manual_seed(0)) / 10
    transform = MelSpectrogram(RATE, n_fft=1024, win_length=400, hop_length=160, n_mels=128)
    loudness = (transform(waveform).log() + 4.268) / 9.138  # (128, 401)
    wanted = 255 * (loudness.flip(0)[:, 50:250] + 1.5) / 3
    (picture,) = log_mel(waveform, [1.5])
    assert picture.shape == (3, 128, 200)
    assert (picture - wanted).abs().max() <= 0.51


def whole_recording(waveform, times, window, scale):
    """The same pictures, cut out of the spectrogram of the whole recording."""
    transform = MelSpectrogram(RATE, n_fft=1024, win_length=400, hop_length=160, n_mels=128)
    loudness = ((transform(waveform).clamp(min=1e-10).log() + 4.268) / 9.138).flip(0)
    width = min(round(100 * window), loudness.shape[1])
    pictures = []
    for time in times:
        start = max(0, min(round(100 * (time - window / 2)), loudness.shape[1] - width))
        picture = loudness[:, start : start + width]
        low, high = (-1.5, 1.5) if scale == "fixed" else (picture.min(), picture.max())
        pictures.append((255 * ((picture - low) / (high - low)).clamp(0, 1)).round())
    return torch.stack(pictures)[:, None].expand(-1, 3, -1, -1)


@given(
    st.integers(RATE // 10, 6 * RATE),
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.sampled_from([0.01, 0.3, 1.0, 2.0, 9.0]),
    st.sampled_from(["fixed", "min-max"]),
)
def test_it_is_cut_out_of_the_whole_recording(samples, shares, window, scale):
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) / 10
    duration, reach = samples / RATE, 0.49 * window  # of moments before and after the recording
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


@pytest.mark.parametrize("hertz", [100, 440, 1000, 4000, 7000])
def test_a_tone_is_a_line_at_its_height(hertz):
    (picture,) = log_mel(tone(hertz, 3), [1.5])
    mel = 2595 * math.log10(1 + hertz / 700) / (2595 * math.log10(1 + 8000 / 700))
    row = int(picture[0, :, 100].argmax())
    assert row == pytest.approx(128 * (1 - mel), abs=2), "low frequencies are at the bottom"


def test_no_band_is_empty():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torchaudio warns of filters without a bin
        (picture,) = log_mel(torch.randn(3 * RATE) / 10, [1.5])
    assert (picture > 0).all()


@given(st.floats(0.02, 0.5))
def test_half_as_loud_is_darker_by_the_same_step_everywhere(amplitude):
    loud, quiet = (log_mel(tone(1000, 2, a), [1.0]).float() for a in (amplitude, amplitude / 2))
    peak = loud.argmax()
    step = 255 * math.log(4) / (3 * 9.138)
    assert loud.flatten()[peak] - quiet.flatten()[peak] == pytest.approx(step, abs=1.01)


@given(st.floats(1.2, 8.8))
def test_a_click_at_a_moment_is_in_the_middle_of_its_window(moment):
    waveform = torch.zeros(10 * RATE)
    waveform[round(moment * RATE)] = 0.9
    (picture,) = log_mel(waveform, [moment])
    loud = picture[0].float().sum(0).nonzero().flatten().float()
    assert loud.mean() == pytest.approx(100, abs=1.5)


def test_windows_at_the_ends_stay_inside_and_nothing_is_padded():
    waveform = torch.randn(5 * RATE) / 10
    first, second, last, later = log_mel(waveform, [0.0, 1.0, 5.0, 5.4])
    assert torch.equal(first, second) and torch.equal(last, later)
    assert (torch.stack([first, last]).float().mean((1, 2)) > 60).all()
    assert log_mel(waveform[: RATE // 2], [0.1, 0.4]).shape == (2, 3, 128, 51)


def test_silence_is_black_on_either_scale():
    for scale in ("fixed", "min-max"):
        assert not log_mel(torch.zeros(2 * RATE), [1.0], scale=scale).any()


def test_min_max_stretches_every_window_to_its_own_range():
    waveform = torch.cat([torch.randn(2 * RATE) / 1000, torch.randn(2 * RATE) / 3])
    stretched = log_mel(waveform, [1.0, 3.0], scale="min-max").flatten(1)
    assert stretched.amin(1).tolist() == [0, 0] and stretched.amax(1).tolist() == [255, 255]
    fixed = log_mel(waveform, [1.0, 3.0]).float()
    assert fixed[1, :, :, 50:].mean() > fixed[0, :, :, :150].mean() + 60


@pytest.mark.parametrize(
    ("waveform", "times", "words"),
    [
        (torch.zeros(2, RATE), [0.5], r"\(2, 16000\) is no mono recording"),
        (torch.zeros(100), [0.0], "no mono recording of 0.1 s"),
        (torch.zeros(RATE), [0.5, 9.0], "moment 9 s is not within the recording of 1 s"),
        (torch.zeros(RATE), [math.nan], "moment nan s"),
    ],
)
def test_what_cannot_be_drawn_is_refused(waveform, times, words):
    with pytest.raises(ValueError, match=words):
        log_mel(waveform, times)
