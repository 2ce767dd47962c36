"""Videos whose frames show their own number in eight bars, black or white."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.bitstream import BitStreamFilterContext
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from datamodules.media.audio import is_silent, read_sound
from datamodules.media.container import Packet, list_packets, open_media, video_track
from datamodules.media.decoding import (
    DoubtError,
    decode_ranges,
    decode_wanted,
    decoded_timeline,
)
from datamodules.media.sampling import At, Rate, Uniform
from datamodules.media.video import Request, read_video
from datamodules.samples import BadSample
from tests.datamodules.media.recordings import chirp, mux_sound

H, W = 48, 64


def image(number, height=H, width=W):
    """uint8 (H, W, 3): the bits of the number as bars, lowest first."""
    bars = np.repeat([255 if number >> bit & 1 else 0 for bit in range(8)], width // 8)
    return np.broadcast_to(bars[None, :, None], (height, width, 3)).astype(np.uint8)


def numbers(frames):
    """What the frames show."""
    bars = frames.pixels.float().mean((1, 2)).unflatten(1, (8, -1)).mean(-1) > 128  # (T, 8)
    return (bars.int() * 2 ** torch.arange(8)).sum(1).tolist()


def write(
    path, frames=40, codec="libx264", fps=25, pts=None, options=None, sound=None, size=(H, W), **kw
):
    """A video of given or numbered frames; ``sound`` is (start, seconds) of AAC at 16 kHz."""
    if isinstance(frames, int):
        frames = [image(number, *size) for number in range(frames)]
    with av.open(str(path), "w", **kw) as file:
        track = file.add_stream(codec, rate=fps)
        track.height, track.width = size
        track.pix_fmt = track.codec.video_formats[0].name
        track.options = {"g": "10", **(options or {})}
        tick = Fraction(1, fps) if pts is None else Fraction(1, 1000)
        track.codec_context.time_base = tick
        heard = file.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = number if pts is None else pts[number], tick
            file.mux(track.encode(frame))
        file.mux(track.encode())
        if sound:
            mux_sound(file, heard, chirp(sound[1], 16000)[None], sound[0])
    return path


def read(path, *samplings, **kw):
    return read_video(path, [Request(sampling) for sampling in samplings], **kw).streams


def refuses(path, *words, trouble="unreadable", **kw):
    with pytest.raises(BadSample) as caught:
        read_video(path, [Request(Uniform(5))], **kw)
    assert caught.value.trouble == trouble and caught.value.remedy
    for word in (path.name, *words):
        assert word in str(caught.value)


KINDS = {
    "b_frames.mp4": ("libx264", {"bf": "3"}),
    "open_gop.mkv": ("libx264", {"bf": "3", "x264-params": "open-gop=1:keyint=12"}),
    "refresh.mkv": ("libx264", {"x264-params": "intra-refresh=1:keyint=15"}),
    "one_key.mp4": ("libx264", {"g": "999"}),
    "fragments.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "stream.ts": ("libx264", {"bf": "2"}),
    "flash.flv": ("libx264", {"bf": "2"}),
    "part2_b.avi": ("mpeg4", {"bf": "2"}),
    "part2.mp4": ("mpeg4", {"bf": "2"}),
    "program.mpg": ("mpeg2video", {"bf": "2"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "vp8_hidden.webm": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "5"}),
    "hevc_open_gop.mkv": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}),
}
# Files whose timestamps are guessed by FFmpeg or the reader.
GUESSED = {
    "h264.avi": ("libx264", {"bf": "2", "b_strategy": "0"}),
    "open_gop.avi": ("libx264", {"bf": "3", "b_strategy": "0", "x264-params": "open-gop=1"}),
    "no_b_frames.avi": ("libx264", {"bf": "0"}),
    "part1.avi": ("mpeg1video", {"bf": "0"}),
    "part1_b.avi": ("mpeg1video", {"bf": "2"}),
    "copied.mp4": ("libx264", {"bf": "2", "b_strategy": "0"}),
    "copied.mkv": ("libx264", {"bf": "2", "b_strategy": "0"}),
    "no_ctts.mp4": ("libx264", {"bf": "2", "b_strategy": "0"}),
    "no_ctts_part2.mp4": ("mpeg4", {"bf": "2"}),
}


def test_a_frame_that_no_other_depends_on_is_decoded_only_where_it_is_wanted(tmp_path):
    path = write(tmp_path / "a.mp4", 9, options={"bf": "1"})
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        unwanted = sorted(packets, key=lambda packet: packet.pts)[1]
        data = bytearray(path.read_bytes())
    # All but the header of the slice.
    data[unwanted.pos + 9 : unwanted.pos + unwanted.size] = b"\xff" * (unwanted.size - 9)
    path.write_bytes(data)
    assert numbers(read(path, At((0.32,)))[0]) == [8]
    with pytest.raises(BadSample, match="frame 1 cannot be decoded"):
        read(path, At((0.04,)))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({0}, [(0, 0)]),
        ({3}, [(0, 2)]),
        ({4}, [(3, 3)]),
        ({3, 4}, [(0, 3)]),  # one after the other: no need to seek
        ({2, 6}, [(0, 5)]),  # 2 comes after the key frame 4, but may depend on 0
        ({1, 7}, [(0, 1), (6, 6)]),
    ],
)
def test_where_decoding_starts(wanted, found):
    """0 is a key frame, 4 one of an open group, whose leading frame 2 comes after it, 7 another."""
    order = [(0, True), (1, False), (3, False), (4, True), (2, False), (6, False), (7, True)]
    packets = [Packet(pts, None, 9, 1, key, True) for pts, key in order]
    assert decode_ranges(packets, wanted) == found


def remux(path, out, change):
    """Copy the packets as ``change(number, packet)`` leaves them; those it returns False for go."""
    with av.open(str(path)) as file, av.open(str(out), "w") as copy:
        track = copy.add_stream_from_template(file.streams.video[0])
        for number, packet in enumerate(file.demux(video=0)):
            if packet.size and change(number, packet) is not False:
                packet.stream = track
                copy.mux(packet)
    return out


def all_key(number, packet):
    packet.is_keyframe = True


def two_at_once(number, packet):
    if number == 21:
        packet.pts = packet.dts = packet.pts - 40


def headless(number, packet):
    return number > 0


@pytest.mark.parametrize(
    ("change", "codec", "name", "times", "shown"),
    [
        (all_key, "mpeg4", "a.mp4", (0.6, 1.56), [15, 39]),
        (two_at_once, "libx264", "a.mkv", (0.8, 0.84), [21, 21]),
        (headless, "libx264", "a.mkv", (0.0, 0.04), [10, 11]),  # 1 to 9 depend on the lost frame 0
    ],
)
def test_everything_is_decoded_where_packets_mislead(
    tmp_path, change, codec, name, times, shown, opened
):
    source = write(tmp_path / name, 40, codec, options={"bf": "0", "sc_threshold": "0"})
    path = remux(source, tmp_path / f"b{source.suffix}", change)
    opened.clear()
    assert numbers(read(path, At(times))[0]) == shown
    assert len(opened) == 3  # the packets, the times of all frames, the frames


def without_offsets(path, out):
    """The MP4 without composition offsets and edit list, so that pts are dts."""
    data = bytearray(path.read_bytes())
    for box in (b"ctts", b"edts"):
        at = data.index(box)
        data[at : at + 4] = b"free"
    out.write_bytes(data)
    return out


@pytest.mark.parametrize("name", [*KINDS, *GUESSED])
def test_frames_are_those_shown_at_the_timestamps(tmp_path, name, opened):
    codec, options = (KINDS | GUESSED)[name]
    container = {"movflags": options["movflags"]} if "movflags" in options else {}
    source = {"copied": "a.avi", "no_ctt": "a.mp4"}.get(name[:6], name)
    path = write(tmp_path / source, 40, codec, options=options, container_options=container)
    if source == "a.avi":
        path = remux(path, tmp_path / name, lambda number, packet: None)
    elif source == "a.mp4":
        path = without_offsets(path, tmp_path / name)
    opened.clear()
    few, alone, all_, fast = read(path, Uniform(7), At((1.2, 0.4)), Uniform(40), Rate(12.5))
    assert numbers(few) == [k * 39 // 6 for k in range(7)]
    assert numbers(alone) == [30, 10] and alone.times == pytest.approx((1.2, 0.4), abs=1e-3)
    assert numbers(all_) == list(range(40))
    assert all_.times == pytest.approx([k / 25 for k in range(40)], abs=1e-3)
    assert numbers(fast) == list(range(0, 40, 2))
    assert numbers(read(path, Uniform(4), span=(0.8, 1.2))[0]) == [20, 23, 26, 29]
    assert len(opened) == 2 or name in GUESSED  # decoding everything would open it again
    for number in range(0, 40, 3):  # the least to decode, and so the least that could tell
        assert numbers(read(path, At((number / 25,)))[0]) == [number]


def test_a_stream_that_could_have_b_frames_but_has_none_is_not_decoded_as_a_whole(tmp_path, opened):
    path = write(tmp_path / "a.mkv", 100, "mpeg2video")
    opened.clear()
    assert numbers(read(path, At((0.0, 2.0)))[0]) == [0, 50]
    assert len(opened) == 1


@pytest.mark.parametrize("codec", ["qtrle", "rpza", "svq1"])
def test_codecs_that_mark_no_key_frames(tmp_path, codec):
    path = write(tmp_path / "a.mov", 20, codec, size=(2 * H, 2 * W))
    assert numbers(read(path, Uniform(20))[0]) == list(range(20))
    if codec != "rpza":  # whose packets are all marked
        refuses(remux(path, tmp_path / "b.mov", headless), "cannot be")


def test_a_missing_frame_is_noticed(tmp_path):
    path = write(tmp_path / "a.mp4", 9)
    with open_media(path) as file:
        track = video_track(path, file)
        packets = list_packets(path, file)[0]
        packets.append(packets[-1]._replace(pts=packets[-1].pts + 512))
        wanted = {packet.pts for packet in packets}
        with pytest.raises(DoubtError):
            list(decode_wanted(file, track, packets, wanted))
        with pytest.raises(BadSample, match="1 of its frames cannot be decoded"):
            decoded_timeline(path, packets, track)


def test_uneven_times_and_negative_or_late_starts(tmp_path):
    steps = [0, 40, 80, 1000, 1040, 3000, 3040]
    for name, shift in (("a.mp4", 0), ("b.mkv", 500), ("c.mp4", 700)):
        path = write(tmp_path / name, 7, pts=[shift + step for step in steps])
        assert numbers(read(path, At((0.0, 0.5, 1.0, 2.9, 3.0)))[0]) == [0, 2, 3, 4, 5]
        (even,) = read(path, Uniform(4))
        assert numbers(even) == [0, 3, 4, 6]
        assert even.times == pytest.approx((0, 1.0, 1.04, 3.04))


def test_an_edit_list_cuts_frames_away(tmp_path):
    """Frames before the edit are decoded, since others depend on them, but not shown."""
    path = write(tmp_path / "a.mp4", 40, options={"bf": "2"})
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 8  # version, flags and count before; duration, then time
    tick = 12800  # of the track, by the muxer's choice for 25 frames a second
    (start,) = struct.unpack(">I", data[entry + 8 : entry + 12])
    data[entry + 8 : entry + 12] = struct.pack(">I", start + 13 * tick // 25)
    path.write_bytes(data)
    (cut,) = read(path, Uniform(27))
    assert numbers(cut) == list(range(13, 40)) and cut.times[0] == 0
    with open_media(path) as file:
        first, *others = list_packets(path, file)[0]
        packets = [first, *(packet._replace(shown=True) for packet in others)]
        wanted = {packet.pts for packet in packets}
        with pytest.raises(DoubtError, match="are missing"):
            list(decode_wanted(file, video_track(path, file), packets, wanted))


def test_several_samplings_and_sound_come_from_one_opening(tmp_path, opened):
    path = write(tmp_path / "a.mp4", 50, sound=(0, 2))
    opened.clear()
    requests = [Request(Uniform(5), (24, 32)), Request(Uniform(20), (12, 16)), Request(At((0.4,)))]
    recording = read_video(path, requests, sound=True)
    assert len(opened) == 1
    with pytest.raises(AssertionError):  # what PyAV raises on a closed container
        opened[0].seek(0)
    shapes = [tuple(frames.pixels.shape) for frames in recording.streams]
    assert shapes == [(5, 3, 24, 32), (20, 3, 12, 16), (1, 3, H, W)]
    # AAC fills its last packet.
    assert len(recording.sound.waveform) == pytest.approx(32000, abs=1024)
    assert recording.sound.start == pytest.approx(0, abs=1e-3)


def test_frames_are_resized_as_data_modules_resize_clips(tmp_path):
    path = write(tmp_path / "a.mp4", 4)
    stored, small = read_video(path, [Request(Uniform(4)), Request(Uniform(4), (20, 30))]).streams
    wanted = resize(stored.pixels, [20, 30], InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(small.pixels, wanted) and small.pixels.dtype == torch.uint8


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("matrix", "weights"), [(1, (0.2126, 0.0722)), (6, (0.299, 0.114))])
def test_colours_follow_the_matrix_and_range_of_the_file(tmp_path, full, matrix, weights):
    """Against the equations of ITU-R BT.601 and BT.709."""
    path = tmp_path / "a.mp4"
    y, u, v = 120, 90, 170
    with av.open(str(path), "w") as file:
        track = file.add_stream("libx264", rate=25)
        track.height, track.width, track.pix_fmt = H, W, "yuv420p"
        track.options = {"qp": "0"}
        track.codec_context.colorspace, track.codec_context.color_range = matrix, 1 + full
        frame = av.VideoFrame(W, H, "yuv420p")
        for plane, value in zip(frame.planes, (y, u, v), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.colorspace, frame.color_range, frame.pts = matrix, 1 + full, 0
        frame.time_base = Fraction(1, 25)
        file.mux(track.encode(frame))
        file.mux(track.encode())
    red, blue = weights
    luma = y / 255 if full else (y - 16) / 219
    cb, cr = ((c - 128) / (255 if full else 224) for c in (u, v))
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    found = read(path, Uniform(1))[0].pixels[0].float().mean((1, 2))
    assert found.tolist() == pytest.approx([255 * c for c in (r, g, b)], abs=2)


# a, b, c, d of a display matrix → (quarter turns, counter-clockwise, whether it mirrors before).
ORIENTATIONS = {
    (1, 0, 0, 1): (0, False),
    (0, 1, -1, 0): (3, False),
    (-1, 0, 0, -1): (2, False),
    (0, -1, 1, 0): (1, False),
    (-1, 0, 0, 1): (0, True),
    (0, -1, -1, 0): (3, True),
    (1, 0, 0, -1): (2, True),
    (0, 1, 1, 0): (1, True),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A video whose frame 2 differs in all its corners, and that frame as it is stored."""
    path = tmp_path_factory.mktemp("stored") / "a.mp4"
    rows = np.linspace(0, 255, H * W).reshape(H, W, 1).repeat(3, 2).astype(np.uint8)
    rows[: H // 3, : W // 3] = 255
    write(path, [rows] * 3)
    return path, read(path, At((0.08,)))[0].pixels[0]


def with_matrix(path, out, a, b, c, d):
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    matrix = [round(x * 65536) for x in (a, b, 0, c, d, 0, 0, 0, 0)]
    data[at : at + 36] = struct.pack(">9i", *matrix[:8], 1 << 30)
    out.write_bytes(data)
    return out


@pytest.mark.parametrize("matrix", ORIENTATIONS)
@pytest.mark.parametrize("scale", [1, 0.5])
def test_quarter_turns_and_reflections_are_applied(tmp_path, stored, matrix, scale):
    path, shown = stored
    turns, mirrored = ORIENTATIONS[matrix]
    wanted = torch.rot90(shown.flip(2) if mirrored else shown, turns, (1, 2))
    path = with_matrix(path, tmp_path / "a.mp4", *(scale * x for x in matrix))
    assert torch.equal(read(path, At((0.08,)))[0].pixels[0], wanted)


@pytest.mark.parametrize("span", [None, (0.4, 0.8)])
def test_a_display_matrix_at_a_key_frame_holds_for_the_frames_after_it(tmp_path, span):
    """H.264's display orientation, here a quarter turn, stands in the first packet alone."""
    one_key = {"g": "99", "x264-params": "scenecut=0"}
    plain, turned = write(tmp_path / "a.mp4", 30, options=one_key), tmp_path / "a.mkv"
    with av.open(str(plain)) as file, av.open(str(turned), "w") as out:
        track = out.add_stream_from_template(file.streams.video[0])
        states = "h264_mp4toannexb,h264_metadata=display_orientation=insert:rotate=90"
        state = BitStreamFilterContext(states, file.streams.video[0], track)
        for packet in file.demux(video=0):
            for stated in state.filter(packet if packet.size else None):
                stated.stream = track
                out.mux(stated)
    wanted = torch.rot90(read(plain, Uniform(6), span=span)[0].pixels, 1, (2, 3))
    assert torch.equal(read(turned, Uniform(6), span=span)[0].pixels, wanted)


def test_other_display_matrices(tmp_path, stored):
    path, shown = stored
    for matrix in ((0, 0, 0, 0), (1, 0.01, -0.01, 1)):  # nothing, and less than a degree
        found = read(with_matrix(path, tmp_path / "a.mp4", *matrix), At((0.08,)))[0].pixels[0]
        assert torch.equal(found, shown)
    for matrix in ((0.8, 0.6, -0.6, 0.8), (1, 0, 1, 1)):
        refuses(with_matrix(path, tmp_path / "a.mp4", *matrix), "a fraction of a quarter turn")


def test_the_best_of_several_tracks_is_read_and_never_cover_art(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        tracks = [file.add_stream("libx264", rate=25) for _ in range(2)]
        for track, scale in zip(tracks, (1, 2), strict=True):
            track.height, track.width, track.pix_fmt = H * scale, W * scale, "yuv420p"
        for number in range(5):
            for track, scale in zip(tracks, (1, 2), strict=True):
                shown = image(number + 10 * scale, H * scale, W * scale)
                frame = av.VideoFrame.from_ndarray(shown, "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                file.mux(track.encode(frame))
        for track in tracks:
            file.mux(track.encode())
    with av.open(str(path)) as file:
        best = file.streams.best("video").index
    assert numbers(read(path, Uniform(5))[0]) == [10 + 10 * best + k for k in range(5)]

    cover = tmp_path / "cover.m4a"
    with av.open(str(cover), "w", format="mp4") as file:
        heard = file.add_stream("aac", rate=16000, layout="mono")
        art = file.add_stream("mjpeg", rate=1)
        art.height, art.width, art.pix_fmt = H, W, "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(image(1), "rgb24").reformat(format="yuvj420p")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        file.mux(art.encode(frame))
        file.mux(art.encode())
        mux_sound(file, heard, chirp(1, 16000)[None])
    refuses(cover, "no video track")
    assert len(read_sound(cover).waveform) == pytest.approx(16000, abs=1024)


def test_sound_is_on_the_clock_of_the_video(tmp_path):
    for name, video, sound in (("a.mkv", 0, 0.5), ("b.mkv", 1000, 0.2), ("c.mp4", 0, 0.5)):
        times = [video + 40 * k for k in range(40)]
        path = write(tmp_path / name, 40, pts=times, sound=(sound, 2))
        recording = read_video(path, [Request(At((0.4,)))], sound=True)
        assert numbers(recording.streams[0]) == [10]
        # AAC adds up to 64 ms before the first sample, where the container cannot cut them away.
        assert recording.sound.start == pytest.approx(sound - video / 1000, abs=0.066)
        part = read_video(path, [Request(At((0.6,)))], span=(0.55, 0.85), sound=True).sound
        assert part.start == pytest.approx(0.55, abs=1e-3)
        assert len(part.waveform) == pytest.approx(4800, abs=2)
        assert read_sound(path, (0.55, 0.85)).start == part.start


def test_parts_and_sound_that_a_video_lacks(tmp_path):
    path = write(tmp_path / "a.mp4", 40)
    refuses(path, "lasts 1.600 s", trouble="too short", span=(2.0, 3.0))
    refuses(path, "no sound track", trouble="no audio", sound=True)
    path = write(tmp_path / "b.mp4", 40, sound=(0, 0.5))
    refuses(path, "of sound there", trouble="too short", sound=True, span=(1.0, 1.5))
    assert not is_silent(read_sound(path))


def test_missing_files_and_files_that_are_not_videos(tmp_path):
    refuses(tmp_path / "none.mp4", "is missing", trouble="missing")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "zeros.mp4").write_bytes(bytes(5000))
    (tmp_path / "text.mp4").write_text("a video\n" * 500)
    Image.fromarray(image(1)).save(tmp_path / "png.mp4", "PNG")
    Image.fromarray(image(1)).save(tmp_path / "jpg.mp4", "JPEG")
    for name in ("empty", "zeros", "text", "png", "jpg"):
        refuses(tmp_path / f"{name}.mp4", "cannot be read as video")
    refuses(Path("/dev/zero"), "is not a file")


def test_no_file_makes_ffmpeg_open_another(tmp_path, monkeypatch):
    secret = write(tmp_path / "secret.mp4", 5)
    lists = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 9",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{secret}'
        "</BaseURL></MPD>",
    }
    for name, text in lists.items():
        for suffix in (".mp4", ".m3u8", ".ffconcat"):
            path = tmp_path / f"{name}{suffix}"
            path.write_text(text)
            refuses(path, "cannot be read as video")
    monkeypatch.chdir(tmp_path)
    for name in (f"concat:{secret.name}|{secret.name}", "http://localhost/a.mp4", "%02d.mp4"):
        refuses(Path(name), "is missing", trouble="missing")
    odd = Path("concat:x|y.mp4")
    odd.write_bytes(secret.read_bytes())
    assert numbers(read(odd, Uniform(5))[0]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "fragments.mp4"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.8, 0.97])
def test_truncated_files_never_give_fewer_frames(tmp_path, name, kept):
    flags = "frag_keyframe+empty_moov" if name.startswith("f") else "faststart"
    container = {"movflags": flags} if name.endswith("mp4") else {}
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = write(tmp_path / name, 100, codec, container_options=container)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    if kept == 0.97 and name != "a.mp4":  # only the index after the frames is lost
        assert numbers(read(path, Uniform(100))[0]) == list(range(100))
    else:
        refuses(path, "cut off")


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libvpx-vp9"])
def test_flipped_bits_are_found_or_harmless(tmp_path, codec):
    """Only H.264 tells all damage; elsewhere a flip may leave another valid stream."""
    options = {"cpu-used": "8", "deadline": "realtime"} if "vp9" in codec else {}
    path = write(tmp_path / "a.mp4", 30, codec, options=options)
    (whole,) = read(path, Uniform(30))
    data = path.read_bytes()
    first, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(8):
        broken = bytearray(data)
        for at in rng.integers(first, end, 6):
            broken[at] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            (frames,) = read(path, Uniform(30))
        except BadSample:
            refused += 1
        else:
            assert len(frames.times) == 30
            assert codec != "libx264" or torch.equal(frames.pixels, whole.pixels)
    assert refused > 2


@pytest.mark.parametrize(("width", "height"), [(0, 0), (60000, 60000), (16000, 16000), (65535, 1)])
def test_absurd_sizes_are_refused(tmp_path, width, height):
    path = write(tmp_path / "a.mkv", 3, "mpeg4")
    data = bytearray(path.read_bytes())
    at = data.index(bytes([0xB0, 0x81, W, 0xBA, 0x81, H]))  # PixelWidth, PixelHeight
    # Two bytes a number, over the display sizes that follow them as optional hints.
    element = struct.pack(">BBHBBH", 0xB0, 0x82, width, 0xBA, 0x82, height)
    data[at : at + 8] = element
    path.write_bytes(data)
    with pytest.raises(BadSample):
        read_video(path, [Request(Uniform(3), (24, 24))])


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tvqa"
    folder.mkdir()
    for number in range(1, 13):
        Image.fromarray(image(number)).save(folder / f"{number:05d}.png")
    (folder / ".DS_Store").touch()
    return folder


def test_a_folder_of_numbered_images_is_a_video(folder):
    few, some = read(folder, Uniform(4), At((0.0, 0.4, 3.9)), folder_fps=3.0)
    assert numbers(few) == [1, 4, 8, 12]
    assert numbers(some) == [1, 2, 12]
    assert some.times == pytest.approx((0, 1 / 3, 11 / 3))
    assert numbers(read(folder, Rate(1.0), span=(1.0, 3.0), folder_fps=3.0)[0]) == [4, 7]


def test_images_of_a_folder_are_shown_upright(folder):
    stored = image(1)
    exif = Image.Exif()
    exif[0x112] = 5  # orientation: mirrored along the diagonal
    Image.fromarray(stored).save(folder / "00001.png", exif=exif)
    (first,) = read(folder, At((0.0,)), folder_fps=3.0)
    upright = torch.from_numpy(stored.swapaxes(0, 1).copy()).permute(2, 0, 1)
    assert torch.equal(first.pixels[0], upright)


def test_folders_that_are_not_videos(folder):
    refuses(folder, "is a folder, not a video file", "such as 3.0")
    refuses(folder, "folder of images", trouble="no audio", folder_fps=3.0, sound=True)
    refuses(folder, "lasts 4.000 s", trouble="too short", folder_fps=3.0, span=(5.0, 6.0))
    (folder / "00005.png").unlink()
    refuses(folder, "lacks", "number 5", folder_fps=3.0)
    (folder / "cover.png").touch()
    with pytest.raises(BadSample, match=r"cover\.png: is not named by a number"):
        read(folder, Uniform(1), folder_fps=3.0)
    empty = folder / "empty"
    empty.mkdir()
    refuses(empty, "holds no images", folder_fps=3.0)


def test_a_damaged_image_in_a_folder(folder):
    (folder / "00003.png").write_bytes(b"x")
    with pytest.raises(BadSample, match=r"00003\.png: cannot be decoded"):
        read(folder, Uniform(12), folder_fps=3.0)
    assert numbers(read(folder, Uniform(2), folder_fps=3.0)[0]) == [1, 12]


def test_files_that_lose_their_end(tmp_path):
    path = write(tmp_path / "a.mp4", 40)
    path.write_bytes(path.read_bytes()[:-200])
    refuses(path, "cannot be read")  # the index is lost
    path = write(tmp_path / "a.flv", 40)
    data, at = path.read_bytes(), 13  # after the header
    while at < len(data) // 2:
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    path.write_bytes(data[:at])  # between two packets
    refuses(path, "cut off")


def test_no_request_and_no_timestamp(tmp_path):
    path = write(tmp_path / "a.mp4", 3)
    assert read_video(path, []).streams == ()
    assert read(path, At(()))[0].pixels.shape[:2] == (0, 3)
