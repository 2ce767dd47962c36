"""Whatever happens to an annotation file, it is read or refused, and no path leads out."""

import copy
import json
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from official_layouts import OFFICIAL

from datamodules.benchmarks import AVSD
from datamodules.samples import BadSample, Episode

JUNK = st.sampled_from(
    [
        None,
        True,
        -1,
        10**30,
        0.5,
        float("nan"),
        float("inf"),
        "",
        " ",
        "A",
        "../../x",
        "/etc/passwd",
        "a\\..\\b",
        "\0",
        "\ud800",
        "<image>",
        "<Object>",
        "__UNDISCLOSED__",
        "[]",
        "x" * 5000,
        [],
        [[]],
        [None],
        {},
        {"a": 1},
        [{"question": "q", "answer": "a"}],
    ]
)


def places(value, found=()):
    """Paths to everything within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*found, key)
        if isinstance(item, dict | list):
            yield from places(item, (*found, key))


def mutate(draw, content):
    *way, last = draw(st.sampled_from(list(places(content))))
    inner = content
    for key in way:
        inner = inner[key]
    action = draw(st.sampled_from(["replace", "replace", "remove", "repeat", "add"]))
    if action == "remove":
        del inner[last]
    elif action == "repeat" and isinstance(inner, list):
        inner.append(copy.deepcopy(inner[last]))
    elif action == "add" and isinstance(inner, dict):
        inner["unheard of"] = copy.deepcopy(draw(JUNK))
    else:
        inner[last] = copy.deepcopy(draw(JUNK))


@settings(max_examples=600)
@given(st.data())
def test_mutated_files_are_read_or_refused(data):
    official = OFFICIAL[data.draw(st.sampled_from(sorted(OFFICIAL)))]
    files = copy.deepcopy(official.files)
    name = data.draw(st.sampled_from(sorted(files)))
    for _ in range(data.draw(st.integers(1, 2))):
        if files[name]:
            mutate(data.draw, files[name])
    with TemporaryDirectory() as folder:
        benchmark = official._replace(files=files).open(Path(folder))
        assert benchmark.splits() == [official.split]
        try:
            episodes = benchmark.episodes(official.split)
        except BadSample as bad:
            assert str(bad.path).startswith(folder) and bad.reason and bad.remedy
            return
    json.dumps([question.__dict__ | {"labels": 0} for e in episodes for question in e.questions])
    for episode in episodes:
        assert isinstance(episode, Episode) and episode.questions
        for path in map(PurePosixPath, episode.media.values()):
            assert path.parts and not path.is_absolute() and ".." not in path.parts
        for question in episode.questions:
            assert question.prompt.encode() and all(answer.strip() for answer in question.answers)
            if official.reader is AVSD:
                assert "__UNDISCLOSED__" not in [answer for _, answer in question.history]
            if question.options:
                assert set(question.answers) <= set("ABCDE"[: len(question.options)])


@given(st.sampled_from(sorted(OFFICIAL)), st.binary(max_size=40) | st.text(max_size=40))
def test_any_bytes_are_refused_or_read(case, content):
    official = OFFICIAL[case]
    with TemporaryDirectory() as folder:
        benchmark = official.open(Path(folder))
        raw = content if isinstance(content, bytes) else content.encode(errors="replace")
        for name in official.files:
            (Path(folder) / name).write_bytes(raw)
        try:
            benchmark.episodes(official.split)
        except BadSample as bad:
            assert bad.trouble == "unreadable"
