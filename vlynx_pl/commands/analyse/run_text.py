"""The tables of ``vlynx analyse RUN`` in Markdown, each with how to read it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vlynx_pl.analysis.landing import percent
from vlynx_pl.commands.analyse.writing import number
from vlynx_pl.io.markdown import table

WORDS: Final = "vocabulary"
"""The name of the words among the streams."""

LEVELS: Final = ("tokens", "frames")
"""What a row of a stream is: a token, or the mean of a frame's."""

_NAN: Final = float("nan")
_GEOMETRY: Final = """\
*Within* is the mean cosine distance of two rows of a stream, *‖mean‖* the length of the mean row
and *length* the mean length of a row. A frame is the mean of its tokens. (Paper, Table B1.)"""
_DISTANCES: Final = """\
*Distance* is the mean cosine distance of a row of each, *gap* the distance of the centroids of unit
vectors, *per stream* that of means divided by the stream's mean length, which Table B1 seems to
print."""
_LANDING: Final = """\
*Told apart* is how often a linear probe, on clips that it was not trained on, says rightly whether
a token is of the stream or of video: 50 % where they cannot be told apart. The row of the video
compares two halves of its clips. Alignment matches means and variances; it need not make streams
alike. *Own video* is how often a clip's mean token is nearest to that of its own video, by chance
once in as many clips; *rank* is the median rank of the own video. *CKA* compares with the video's
token of the same time and place."""
_NAMES: Final = """\
The nearest word by cosine; *centred* means without what all words, and all tokens, have in common.
*From video* is the Jensen-Shannon distance of names, from 0 to 1."""
_LAYERS: Final = """\
The variance between frames at a position that is left in keys / values / responses of attention, as
% of video's."""


def run_text(found: Mapping[str, Any]) -> str:
    """The tables in Markdown, each with how to read it."""
    streams: dict[str, Any] = found["streams"]
    counts = [f"{one['frames']:,} frames of {one['clips']:,} clips" for one in streams.values()]
    lines = [f"- {name}: {count}" for name, count in zip(streams, counts, strict=True)]
    if "name_of_guidance_mean" in found:
        lines.append(
            f"- the guidance's mean token is nearest to “{found['name_of_guidance_mean']}”"
        )
    lines.append(f"- {found['short_words']:.1%} of words are shorter than half the median")
    parts = [f"## Token interface of {found['run']}", "\n".join(lines)]
    parts += [f"**Warning:** {warning}" for warning in found["warnings"]]
    parts += ["### Geometry", _geometry_table(found["geometry"]), _GEOMETRY]
    if streams:
        parts += ["### Distances", _distance_table(found["distances"]), _DISTANCES]
        parts += ["### Landing", _landing_table(streams), _LANDING]
        parts += ["### Names", _name_table(streams), _NAMES]
        parts += ["### Layers", _layer_table(streams), _LAYERS]
    if found["left_out"]:
        parts += ["### Left out", "\n".join(f"- {one}" for one in found["left_out"])]
    return "\n\n".join(parts)


def _geometry_table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    rows = []
    for level in LEVELS:
        for name, levels in found.items():
            if level in levels:
                count, *values = levels[level].values()
                rows.append([f"{name}, {level}", f"{count:,}", *map(number, values)])
    return table(["stream", "rows", "within", "‖mean‖", "length"], rows)


def _distance_table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for pair in found:
        (one, other), level, *values = pair.values()
        rows.append([f"{one} from {other}, {level}", *map(number, values)])
    return table(["streams", "distance", "gap", "per stream"], rows)


def _landing_table(streams: Mapping[str, Any]) -> str:
    rows = []
    for name, one in streams.items():
        own = one.get("own_video", {})
        rows.append(
            [
                name,
                percent(one["told_apart"]),
                percent(own.get("first")),
                f"{own['median_rank']:g} of {own['clips']}" if own else "–",
                number(one.get("cka", _NAN)),
            ]
        )
    return table(["stream", "told apart", "own video", "rank", "CKA"], rows)


def _name_table(streams: Mapping[str, Any]) -> str:
    rows = []
    for name, one in streams.items():
        rows.append(
            [name, number(one["name_entropy"]), number(one["name_distance"]), _list(one["names"])]
        )
        centred = _list(one["centred_names"])
        rows.append([f"{name}, centred", number(one["centred_name_entropy"]), "–", centred])
    return table(["stream", "entropy", "from video", "names"], rows)


def _layer_table(streams: Mapping[str, Any]) -> str:
    others = {name: one["variance_per_layer"] for name, one in streams.items() if name != "video"}
    cells = [
        [
            " / ".join(f"{100 * share:.0f}" for share in layer)
            for layer in zip(*of.values(), strict=True)
        ]
        for of in others.values()
    ]
    rows = [[str(layer), *line] for layer, line in enumerate(zip(*cells, strict=True), 1)]
    return table(["layer", *others], rows)


def _list(shares: Mapping[str, float]) -> str:
    """Names with their shares; what Markdown would read as its own is escaped."""
    return ", ".join(
        re.sub(r"([\\`*_|<>\[\]~#])", r"\\\1", name) + f" {share:.1%}"
        for name, share in shares.items()
    )
