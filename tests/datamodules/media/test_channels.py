"""Channels whose mean does not stand for them."""

import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.media.audio import is_silent, read_sound
from datamodules.media.channels import ChannelMean
from datamodules.samples import BadSample
from tests.datamodules.media.recordings import chirp, lag, refuses_sound, write_sound

NOISE = np.random.default_rng(0).standard_normal((8, 16000)).astype(np.float32) * 0.1


def write_pcm(path, packed):
    """16-bit samples (N, C) at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setparams((packed.shape[1], 2, 16000, 0, "NONE", ""))
        file.writeframes(packed.tobytes())


def mean(path, *channels):
    found = ChannelMean(len(channels))
    found.add(np.stack(channels, 1).astype(np.float32))
    return found.waveform(path)


@pytest.mark.parametrize(("name", "codec"), [("a.flac", "flac"), ("a.m4a", "aac")])
def test_stereo_of_opposite_phase_is_neither_silent_nor_sound(tmp_path, name, codec):
    tone = chirp(1, 48000)
    path = write_sound(tmp_path / name, np.stack([tone, -tone]), 48000, codec, "stereo")
    refuses_sound(path, "cancel out", "pan=mono|c0=c0", trouble="antiphase")


def test_pairs_of_surround_channels_may_cancel_out_as_well(tmp_path):
    a, b, c = NOISE[:3]
    path = write_sound(
        tmp_path / "a.wav", np.stack([a, -a, b, -b, c, -c]), 16000, "pcm_f32le", "5.1"
    )
    refuses_sound(path, "cancel out", trouble="antiphase")
    left = np.stack([a, -a, b, 0 * b, c, -c])  # a voice in the centre remains
    sound = read_sound(write_sound(tmp_path / "b.wav", left, 16000, "pcm_f32le", "5.1"))
    assert np.allclose(sound.waveform, b / 6, atol=1e-6)


@pytest.mark.parametrize(
    ("gain", "bad"), [(-1, True), (-0.8, True), (-0.5, False), (0, False), (1, False)]
)
def test_a_tenth_of_the_power_is_the_least(tmp_path, gain, bad):
    if bad:
        with pytest.raises(BadSample, match="cancel out"):
            mean(tmp_path, NOISE[0], gain * NOISE[0])
    else:
        assert np.allclose(mean(tmp_path, NOISE[0], gain * NOISE[0]), NOISE[0] * (1 + gain) / 2)


@given(st.integers(1, 8), st.data())
def test_unrelated_channels_never_cancel_out(channels, data):
    gains = data.draw(st.lists(st.floats(0, 1), min_size=channels, max_size=channels))
    used = NOISE[:channels] * np.array(gains, np.float32)[:, None]
    assert np.allclose(mean("a", *used), used.mean(0), atol=1e-6)


def test_offsets_and_dither_do_not_count_as_sound(tmp_path):
    assert len(mean(tmp_path, 0.3 + 0.01 * NOISE[0], -0.3 + 0.01 * NOISE[1])) == 16000
    dither = np.sign(NOISE[:1]) / 32768
    path = write_sound(
        tmp_path / "a.wav", np.concatenate([dither, -dither]), 16000, "pcm_s16le", "stereo"
    )
    assert is_silent(read_sound(path))


def test_only_the_span_is_judged(tmp_path):
    tone = chirp(3, 16000)
    other = np.where(np.arange(48000) < 16000, tone, -tone)
    path = write_sound(tmp_path / "a.wav", np.stack([tone, other]), 16000, "pcm_f32le", "stereo")
    assert len(read_sound(path, (0.0, 1.0)).waveform) == 16000
    refuses_sound(path, "cancel out", trouble="antiphase", span=(1.0, 3.0))


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
def test_integers_that_were_stored_as_floats(tmp_path, codec):
    for peak in (100, 32767, 2**31):  # of 8, 16 and 32 bits
        loud = chirp(0.5, 16000)[None] / 0.4 * peak
        path = write_sound(tmp_path / "a.wav", loud, 16000, codec)
        refuses_sound(path, "full scale is 1", "volume=1/32768")
    hot = write_sound(tmp_path / "b.wav", 4 * chirp(0.5, 16000)[None], 16000, codec)
    assert read_sound(hot).waveform.abs().max() == pytest.approx(1.6, abs=0.01)


@pytest.mark.parametrize("channels", [8, 9, 64])
def test_any_number_of_channels(tmp_path, channels):
    packed = (np.outer(chirp(0.5, 16000), np.linspace(0.1, 1, channels)) * 32767).astype("<i2")
    path = tmp_path / "a.wav"
    write_pcm(path, packed)
    wanted = packed.astype(np.float64).mean(1) / 32768
    assert np.allclose(read_sound(path).waveform, wanted, atol=1e-6)


def test_more_channels_than_ffmpeg_converts(tmp_path):
    write_pcm(tmp_path / "a.wav", np.zeros((9000, 65), "<i2"))
    refuses_sound(tmp_path / "a.wav", "has 65 channels", "ffmpeg -i IN -ac 2")


def test_planes_of_eight_channels(tmp_path):
    """PyAV cannot take them out of a frame, nor put them into one."""
    packed = (np.outer(chirp(1, 48000), np.linspace(0.1, 1, 8)) * 32767).astype(np.int16)
    path = tmp_path / "a.mka"
    with av.open(str(path), "w") as file:
        track = file.add_stream("libopus", rate=48000, layout="7.1")
        frame = av.AudioFrame.from_ndarray(packed.reshape(1, -1), "s16", "7.1")
        frame.rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), 0
        for part in av.AudioResampler("flt", frame_size=960).resample(frame):
            file.mux(track.encode(part))
        file.mux(track.encode())
    found = read_sound(path).waveform.numpy()
    assert lag(found, 0.55 * chirp(1, 16000))[1] > 0.98
    assert np.abs(found).max() == pytest.approx(0.22, rel=0.1)
