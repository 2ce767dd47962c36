"""Which streams the LLM reads when questions are asked again."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlynx_pl.baselines.pave_streams import PatchedVideo
from vlynx_pl.muting import BASELINE, Encodings, Way, circle, muted, ways_to_mute
from vlynx_pl.stream_tokens import EncodedClip
from vlynx_pl.streams import AlignedStreams

STREAMS = AlignedStreams({"3d": "base", "audio": "base"})
NAMES = ("video", "3d", "audio")


def clip(name, level, frames=2):
    """A clip whose tokens are all ``level``, plus 0.1 for each stream."""
    times = {each: tuple(range(frames)) for each in NAMES}
    tokens = {each: torch.full((frames, 3, 4), level + i / 10) for i, each in enumerate(NAMES)}
    return EncodedClip({"name": name, "times": times, "questions": ()}, tokens)


@given(st.sets(st.text(max_size=5), min_size=2, max_size=40), st.randoms())
def test_every_clip_gives_its_streams_to_one_other_whatever_the_order(names, random):
    found = circle(names)
    other = dict(zip(found, [found[-1], *found], strict=False))
    assert other.keys() == set(other.values()) == names
    assert all(one != another for one, another in other.items())
    shuffled = sorted(names)
    random.shuffle(shuffled)
    assert circle(shuffled) == found


def test_each_stream_is_left_out_and_replaced_alone():
    mine, other = clip("a", 1.0), clip("b", 5.0, frames=3)
    read = {}
    for way in ways_to_mute(STREAMS, clips=2):
        streams = muted(STREAMS, way, mine, other)
        read[str(way)] = [(round(s.tokens.mean().item(), 1), len(s.times)) for s in streams]
    video, depth, audio = (1.0, 2), (1.1, 2), (1.2, 2)
    assert read == {
        "without 3d": [video, audio],
        "another clip's 3d": [video, (5.1, 3), audio],
        "without audio": [video, depth],
        "another clip's audio": [video, depth, (5.2, 3)],
        "without video": [depth, audio],
        "another clip's video": [(5.0, 3), depth, audio],
    }
    [alone] = muted(STREAMS, BASELINE, mine, None)
    assert torch.equal(alone.tokens, mine.encoded["video"])


def test_one_clip_has_no_other_and_the_video_alone_is_not_muted():
    assert {way.how for way in ways_to_mute(STREAMS, clips=1)} == {"without"}
    assert ways_to_mute(AlignedStreams(), clips=5) == []


@pytest.mark.parametrize("computed", [False, True])
def test_pave_has_no_tokens_without_a_video(tmp_path, computed):
    given = {"side_features": str(tmp_path), "side_dim": 8} if computed else {}
    streams = PatchedVideo("3d", **given)
    assert ways_to_mute(streams, clips=2) == [
        Way("without", "3d"),
        Way("another clip's", "3d"),
        Way("another clip's", "video"),
    ]


def test_only_as_many_clips_are_kept_as_fit():
    one, two, three = clip("a", 1.0), clip("b", 2.0, frames=3), clip("c", 3.0)
    size = sum(each.nbytes for each in one.encoded.values())
    kept = Encodings(most=2 * size)
    for each in (one, two, three):
        kept.keep(each)
    assert kept.of("b") is None and kept.of("c").episode["name"] == "c"
    assert torch.equal(kept.of("a").encoded["3d"], one.encoded["3d"])
