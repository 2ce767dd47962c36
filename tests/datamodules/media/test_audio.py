from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from datamodules.media.audio import Sound, is_silent, read_sound
from tests.datamodules.media.recordings import chirp, lag, refuses_sound, write_sound


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.wav", "pcm_s16le", 44100),
        ("f.wav", "pcm_f32le", 48000),
        ("u.wav", "pcm_u8", 22050),
        ("a.flac", "flac", 8000),
        ("a.mka", "pcm_s32le", 96000),
    ],
)
def test_lossless_sound_is_its_mean_resampled(tmp_path, name, codec, rate):
    wave = chirp(1.5, rate)
    sound = read_sound(
        write_sound(tmp_path / name, np.stack([wave, 0.5 * wave]), rate, codec, "stereo")
    )
    wanted = resample(torch.from_numpy(0.75 * wave), rate, 16000)
    assert sound.waveform.dtype == torch.float32 and sound.start == 0
    noise = 1 / 100 if codec == "pcm_u8" else 1 / 30000
    assert torch.allclose(sound.waveform, wanted, atol=noise)


LOSSY = [
    ("a.mp3", "libmp3lame", 44100),
    ("a.m4a", "aac", 44100),
    ("a.mkv", "aac", 48000),
    ("a.webm", "libopus", 48000),
    ("a.ogg", "libopus", 48000),
    ("a.ts", "ac3", 48000),
]


@pytest.mark.parametrize(("name", "codec", "rate"), LOSSY)
def test_lossy_sound_is_where_it_was(tmp_path, name, codec, rate):
    wave = chirp(4.0, rate)
    path = write_sound(tmp_path / name, wave[None], rate, codec)
    sound = read_sound(path)
    wanted = resample(torch.from_numpy(wave), rate, 16000).numpy()
    shift, likeness = lag(sound.waveform.numpy(), wanted)
    # Up to 1152 samples of priming remain where the container cannot say that they are none.
    assert 0 <= shift < 16000 * 1200 / rate and likeness > 0.99
    if name in {"a.mp3", "a.m4a", "a.webm", "a.ogg"}:
        assert shift <= 1
    assert len(sound.waveform) == pytest.approx(64000, abs=1300)


@pytest.mark.parametrize(("name", "codec", "rate"), [*LOSSY, ("a.flac", "flac", 44100)])
@pytest.mark.parametrize("span", [(2.7, 3.1), (0.0, 0.5)])
def test_a_span_is_a_cut_of_the_whole(tmp_path, name, codec, rate, span):
    path = write_sound(tmp_path / name, chirp(4.0, rate)[None], rate, codec)
    whole, part = read_sound(path), read_sound(path, span)
    assert part.start == pytest.approx(span[0], abs=1e-3)
    assert len(part.waveform) == pytest.approx(16000 * (span[1] - span[0]), abs=17)
    at = round((part.start - whole.start) * 16000)
    # The resampler has nothing before and after a cut; times in Matroska are rounded to 1 ms.
    cut = whole.waveform[at : at + len(part.waveform)][500:-500].numpy()
    shift, likeness = lag(part.waveform[500:-500].numpy(), cut)
    assert abs(shift) <= (17 if name[-3:] in {"mkv", "ebm"} else 1) and likeness > 0.98


def test_all_channels_of_surround_sound_count_alike(tmp_path):
    rate = 16000
    waves = np.stack([chirp(1, rate) * weight for weight in (1, 0.5, 0.2, 0.8, 0, 0.5)])
    sound = read_sound(write_sound(tmp_path / "a.wav", waves, rate, "pcm_f32le", "5.1"))
    assert torch.allclose(sound.waveform, torch.from_numpy(waves.mean(0)), atol=1e-6)


def test_only_the_span_is_decoded(tmp_path, monkeypatch):
    path = write_sound(tmp_path / "a.m4a", chirp(30, 16000)[None], 16000, "aac", "mono", step=1024)
    decoded, original = [], av.AudioResampler

    class Counting:
        def __init__(self, **kw):
            self.convert = original(**kw)

        def resample(self, frame):
            decoded.append(frame.samples)
            return self.convert.resample(frame)

    monkeypatch.setattr(av, "AudioResampler", Counting)
    read_sound(path, (25.0, 26.0))
    assert sum(decoded) < 3 * 16000


def test_silence_is_a_sound(tmp_path):
    for name, codec in (("a.wav", "pcm_s16le"), ("a.m4a", "aac"), ("a.mp3", "libmp3lame")):
        path = write_sound(tmp_path / name, np.zeros((1, 16000), np.float32), 16000, codec)
        assert is_silent(read_sound(path))
    rng = np.random.default_rng(0)
    dither = torch.from_numpy(rng.integers(-1, 2, 1000).astype(np.float32) / 32768)
    assert is_silent(Sound(dither, 0.0))
    dither[500] = 4 / 32768
    assert not is_silent(Sound(dither, 0.0))


@pytest.mark.parametrize(
    "span", [(9.0, 10.0), (0.5, 0.55), (1.0, 0.5), (-3.0, -1.0), (float("nan"), 1)]
)
def test_less_than_a_tenth_of_a_second(tmp_path, span):
    path = write_sound(tmp_path / "a.wav", chirp(1, 16000)[None], 16000, "pcm_s16le")
    refuses_sound(path, "at least 0.1 s are needed", trouble="too short", span=span)
    path = write_sound(tmp_path / "b.wav", chirp(0.09, 16000)[None], 16000, "pcm_s16le")
    refuses_sound(path, "has 0.090 s", trouble="too short")


def test_a_span_is_clipped_to_the_sound(tmp_path):
    path = write_sound(tmp_path / "a.wav", chirp(1, 16000)[None], 16000, "pcm_s16le")
    sound = read_sound(path, (-1.0, float("inf")))
    assert len(sound.waveform) == 16000 and sound.start == 0


def test_files_without_sound(tmp_path):
    refuses_sound(tmp_path / "a.wav", "is missing", trouble="missing")
    for name, content in (("t.mp3", b"text " * 900), ("e.wav", b""), ("z.flac", bytes(9000))):
        (tmp_path / name).write_bytes(content)
        refuses_sound(tmp_path / name)
    refuses_sound(tmp_path, "is a folder, not a file")


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.m4a", "aac"), ("a.mkv", "aac")],
)
def test_truncated_sound_is_refused(tmp_path, name, codec):
    path = write_sound(tmp_path / name, chirp(8, 16000)[None], 16000, codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refuses_sound(path, "damaged or cut off")


def test_a_hole_is_not_filled_with_silence(tmp_path):
    path = tmp_path / "a.mka"
    with av.open(str(path), "w") as file:
        track = file.add_stream("pcm_s16le", rate=16000, layout="mono")
        for at in (0, 1000, 17000, 18000):
            frame = av.AudioFrame.from_ndarray(np.ones((1, 1000), np.int16), "s16", "mono")
            frame.rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), at
            file.mux(track.encode(frame))
    refuses_sound(path, "0.94 s off its time at 0.12 s")


def test_a_rate_that_would_take_gigabytes_to_resample(tmp_path):
    path = write_sound(tmp_path / "a.wav", chirp(1, 44101)[None], 44101, "pcm_s16le")
    refuses_sound(path, "44101 samples per second", "Convert")


def test_sound_that_is_not_a_number(tmp_path):
    wave = chirp(1, 16000)[None]
    wave[0, 7000] = np.nan
    refuses_sound(write_sound(tmp_path / "a.wav", wave, 16000, "pcm_f32le"), "not numbers")
