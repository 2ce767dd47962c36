"""Sound files as recorders, pipes and taggers write them, read the way FFmpeg reads them."""

import struct
import wave

import numpy as np
import pytest

from datamodules.media.audio import read_sound
from tests.datamodules.media.recordings import chirp, lag, refuses_sound, write_sound

RATE = 16000
ID3 = b"ID3\x03\0\0\0\0\x07\x76" + bytes(1014)
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 52, 1, 0xA0000000) + bytes(8)
APE += struct.pack("<II", 5, 0) + b"Title\0Info\0" + bytes(1)
APE += b"APETAGEX" + struct.pack("<IIII", 2000, 52, 1, 0x80000000) + bytes(8)
LYRICS = b"LYRICSBEGIN" + b"la la la " * 20 + b"000189LYRICS200"


@pytest.fixture(scope="module")
def mp3(tmp_path_factory):
    """2 s, by a header that states the number of frames."""
    path = tmp_path_factory.mktemp("mp3") / "a.mp3"
    return write_sound(path, chirp(2, 44100)[None], 44100, "libmp3lame").read_bytes()


def save(path, *parts):
    path.write_bytes(b"".join(parts))
    return path


def same(found, wanted, least=0.99):
    shift, likeness = lag(found.waveform.numpy(), wanted)
    return abs(shift) <= 1 and likeness > least


@pytest.mark.parametrize("length", [0, 2**32 - 37, 0x7FFFF000, 2**31])
@pytest.mark.parametrize("sound", ["pcm_s16le", "adpcm_ms"])
def test_a_wav_of_unknown_length_is_read_to_its_end(tmp_path, length, sound):
    path = write_sound(tmp_path / "a.wav", chirp(2.3, RATE)[None], RATE, sound)
    whole, data = read_sound(path), bytearray(path.read_bytes())
    at = data.index(b"data")
    struct.pack_into("<I", data, 4, min(length, 2**32 - 1))
    struct.pack_into("<I", data, at + 4, length)
    assert np.array_equal(read_sound(save(path, data)).waveform, whole.waveform)


def test_a_wav_of_known_length_is_cut_off_where_it_ends_before(tmp_path):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((chirp(2, RATE) * 32767).astype("<i2").tobytes())
    refuses_sound(save(path, path.read_bytes()[:-100]), "damaged or cut off")


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("a.wma", "wmav2", RATE), ("b.wma", "wmav1", RATE), ("a.wav", "adpcm_ms", 48000)],
)
def test_frames_without_a_time_follow_the_one_before(tmp_path, name, codec, rate):
    tone = chirp(2, rate)
    path = write_sound(tmp_path / name, tone[None], rate, codec, "mono", b="64000")
    sound = read_sound(path)
    assert lag(sound.waveform.numpy(), chirp(2, RATE))[1] > 0.98
    assert len(sound.waveform) == pytest.approx(2 * RATE, abs=2100)
    refuses_sound(save(path, path.read_bytes()[: path.stat().st_size * 4 // 5]), "cut off")


def test_packets_joined_around_damage_are_damage(tmp_path):
    """FFmpeg then decodes more samples from a packet than it states, some without a time."""
    path = write_sound(tmp_path / "a.flac", chirp(2, 48000)[None], 48000, "flac")
    data = bytearray(path.read_bytes())
    at = len(data) * 3 // 10
    data[at : at + 40] = bytes(40)
    refuses_sound(save(path, data), "damaged or cut off")


@pytest.mark.parametrize("end", [0.3, 0.97])
def test_an_mp3_shorter_than_its_header_states_is_cut_off(tmp_path, mp3, end):
    path = save(tmp_path / "a.mp3", mp3[: int(end * len(mp3))])
    refuses_sound(path, "frames that its header states", "-c copy")


def test_an_mp3_without_header_states_nothing(tmp_path, mp3):
    at = mp3.index(b"Info" if b"Info" in mp3 else b"Xing")
    bare = mp3[:at] + bytes(4) + mp3[at + 4 :]
    path = save(tmp_path / "a.mp3", bare[: len(bare) // 2])
    assert len(read_sound(path).waveform) == pytest.approx(RATE, rel=0.1)


def test_the_header_of_fraunhofer_states_frames_as_well(tmp_path, mp3):
    at = mp3.index(b"Info" if b"Info" in mp3 else b"Xing")
    frame = mp3.rindex(b"\xff", 0, at)
    while mp3[frame + 1] < 0xE2:
        frame = mp3.rindex(b"\xff", 0, frame)
    for frames, bad in ((76, False), (700, True)):
        vbri = b"VBRI" + bytes(6) + struct.pack(">II", len(mp3), frames)
        path = save(tmp_path / "a.mp3", mp3[:at], bytes(4), mp3[at + 4 : frame + 36], vbri,
                    mp3[frame + 36 + len(vbri) :])  # fmt: skip
        if bad:
            refuses_sound(path, "of the 700 frames")
        else:
            read_sound(path)


@pytest.mark.parametrize(
    "tags", [(b"", b"TAG" + bytes(125)), (ID3, b""), (b"", APE), (b"", LYRICS), (b"", APE[52:])]
)
def test_tags_are_not_damage(tmp_path, mp3, tags):
    plain = read_sound(save(tmp_path / "a.mp3", mp3))
    tagged = read_sound(save(tmp_path / "b.mp3", tags[0], mp3, tags[1]))
    assert same(tagged, plain.waveform.numpy(), 0.999)
    assert len(tagged.waveform) == len(plain.waveform)


def test_other_bytes_in_an_mp3_are_damage(tmp_path, mp3):
    refuses_sound(save(tmp_path / "a.mp3", mp3, b"\x17text" * 400), "damaged")


def test_concatenated_mp3s(tmp_path, mp3):
    one = read_sound(save(tmp_path / "a.mp3", mp3)).waveform.numpy()
    row = read_sound(save(tmp_path / "b.mp3", *[ID3 + mp3] * 14))
    # Each header is a frame of silence, as FFmpeg plays it, and ends are not trimmed.
    assert len(row.waveform) == pytest.approx(14 * len(one), abs=14 * 1600)
    assert lag(row.waveform[-len(one) - 400 :].numpy(), one)[1] > 0.98


@pytest.mark.parametrize(
    ("name", "codec"), [("a.ogg", "vorbis"), ("a.opus", "libopus"), ("a.oga", "flac")]
)
def test_concatenated_streams_of_ogg(tmp_path, name, codec):
    """The first is the shorter, so that seeking would lead into the second."""
    files = []
    for seconds in (1, 2):
        tone = chirp(seconds, 48000)
        path = tmp_path / f"{seconds}{name}"
        write_sound(path, np.stack([tone, tone]), 48000, codec, "stereo", strict="-2")
        files.append(path)
    row = read_sound(save(tmp_path / name, *(file.read_bytes() for file in files)))
    wanted = np.concatenate([read_sound(file).waveform.numpy() for file in files])
    assert len(row.waveform) == pytest.approx(len(wanted), abs=1)
    assert lag(row.waveform.numpy(), wanted)[1] > 0.98
    part = read_sound(tmp_path / name, (2.2, 2.8))
    assert lag(part.waveform.numpy(), wanted[round(2.2 * RATE) : round(2.8 * RATE)])[1] > 0.95
