"""``vlynx analyse RUN``: the geometry of streams, where they land, their names and their layers."""

import hashlib
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.samples import BadSample
from vlynx_pl.analysis.geometry import distance, gap_per_stream, gap_per_vector, geometry
from vlynx_pl.analysis.interface_figure import (
    draw_interface,
    draw_layers,
    draw_names,
    import_tsne,
)
from vlynx_pl.analysis.landing import landing, linear_cka, own_video_ranks
from vlynx_pl.analysis.names import Vocabulary, entropy, names, vocabulary
from vlynx_pl.analysis.samples import paired
from vlynx_pl.analysis.stream_meter import ROWS, StreamMeter
from vlynx_pl.commands.analyse.readable_run import ReadableRun, open_readable
from vlynx_pl.commands.analyse.run_text import LEVELS, WORDS, run_text
from vlynx_pl.commands.analyse.writing import write_results
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.progress import track

_POOR: Final = 0.25  # share of video's below which a figure is warned about


def analyse_run(run: Path, out: Path, frames: int, count: int, tsne: bool) -> None:
    """Write ``interface.json``, ``.md`` and ``.png``, and pictures of names and layers.

    Args:
        run: folder of an alignment, or of a tuned run.
        out: folder of the results.
        frames: about as many of each stream are read, of clips in the order of a hash.
        count: words for the geometry of the vocabulary, all if there are fewer.
        tsne: also draw t-SNE.

    Raises:
        UserError: the folder is not that of a run, or scikit-learn is missing.
    """
    if tsne:
        import_tsne()  # which may be missing, before clips are read
    opened = open_readable(run)
    words = vocabulary(opened.backbone)
    meters = _measure(opened, frames)
    chosen = torch.randperm(len(words.texts), generator=torch.Generator().manual_seed(0))[:count]
    some = words.rows[chosen.to(words.rows.device)].float().cpu()
    found = {
        "run": str(run),
        "backbone": opened.backbone.name,
        "backbone_fingerprint": opened.backbone.fingerprint,
        "dtype": str(opened.backbone.dtype),
        "guidance": opened.guidance and opened.guidance.fingerprint,
        "reads": opened.streams.reads(),
        **_geometry(some, meters),
        "streams": _streams(words, meters),
        "left_out": opened.left_out,
    }
    if opened.guidance is not None:
        mean = opened.guidance.token_mean[None, : some.shape[1]]
        [found["name_of_guidance_mean"]] = names(mean, words)
    found["warnings"] = _warnings(found)
    pictures = _pictures(some, meters, found["streams"], tsne)
    write_results(out, "interface", found, run_text(found), pictures)


def _measure(opened: ReadableRun, frames: int) -> dict[str, StreamMeter]:
    """Read clips once, and measure each stream of them, ``video`` first."""
    streams, left_out = opened.streams, opened.left_out
    ways: dict[str, list[tuple[str, str | None]]] = {"video": [("video", None)]}
    for name in streams.modalities:
        ways[name] = [(f"{name} before", None)]
        if streams.reads()[name]["adapter"]:
            ways[name].append((f"{name} after", name))
    meters = {label: StreamMeter(opened.backbone) for way in ways.values() for label, _ in way}
    try:
        clips = opened.clips()
    except UserError as error:
        left_out.append(f"all streams: {error}")
        return {}
    order = sorted(clips, key=lambda clip: hashlib.sha256(ascii(clip).encode()).digest())
    for clip in track(order, "Measuring"):
        lacking = [name for name, way in ways.items() if meters[way[0][0]].num_frames < frames]
        if not lacking:
            break
        try:
            episode = clips[clip]()
        except BadSample as bad:
            left_out.append(str(bad))
            continue
        with torch.inference_mode():
            for name in [name for name in lacking if name in episode["streams"]]:
                for label, adapter in ways[name]:
                    with meters[label].listening():
                        tokens = streams.encode_stream(name, episode, adapter)
                    meters[label].update(clip, tokens)
    if missing := [label for label, meter in meters.items() if not meter.num_clips]:
        left_out.append(f"all streams: no clip has {missing[0]}")
        return {}
    return meters


def _geometry(words: Tensor, meters: Mapping[str, StreamMeter]) -> dict[str, Any]:
    """Geometry of each stream, and distances of each two, by tokens and by frames."""
    shapes: dict[str, dict[str, Any]] = {}
    distances: list[dict[str, Any]] = []
    for level in LEVELS:
        of = {WORDS: geometry(words)}
        of |= {name: meter.geometry[level].geometry() for name, meter in meters.items()}
        for name, one in of.items():
            shapes.setdefault(name, {})[level] = {
                "rows": one.count,
                "distance_within": one.distance_within,
                "length_of_mean": one.length_of_mean,
                "length": one.length,
            }
        distances += [
            {
                "streams": [other, one],
                "level": level,
                "distance": distance(of[one], of[other]),
                "gap_per_vector": gap_per_vector(of[one], of[other]),
                "gap_per_stream": gap_per_stream(of[one], of[other]),
            }
            for one, other in combinations(of, 2)
        ]
    del shapes[WORDS]["frames"]  # a word is a row at both levels
    lengths = words.norm(dim=1)
    short = float((lengths < lengths.median() / 2).double().mean())
    return {"geometry": shapes, "distances": distances, "short_words": short}


def _streams(words: Vocabulary, meters: Mapping[str, StreamMeter]) -> dict[str, Any]:
    """Whether each stream lands on video, its names, and its layers."""
    if not meters:
        return {}
    samples = {name: meter.tokens.sample() for name, meter in meters.items()}
    clips = {name: meter.clips.sample() for name, meter in meters.items()}
    spreads = {name: meter.spread.spread() for name, meter in meters.items()}
    found = landing(words, samples, spreads)
    for name, one in found.items():
        centred = names(samples[name].rows, words, centred=True)
        one |= {
            "clips": meters[name].num_clips,
            "frames": meters[name].num_frames,
            "centred_names": dict([*centred.items()][: len(one["names"])]),
            "centred_name_entropy": entropy(centred),
        }
        means = paired(clips[name], clips["video"])
        if name != "video" and len(means[0]) > 1:
            ranks = own_video_ranks(*means).double()
            one["own_video"] = {
                "clips": len(ranks),
                "first": float((ranks == 1).double().mean()),
                "median_rank": float(ranks.quantile(0.5)),
            }
            one["cka"] = linear_cka(*paired(samples[name], samples["video"]))
    return found


def _warnings(found: Mapping[str, Any]) -> list[str]:
    """Signs that a modality's tokens hardly depend on their input."""
    streams, shapes = found["streams"], found["geometry"]
    signs = {
        "entropy of names": {name: one["name_entropy"] for name, one in streams.items()},
        "distance within": {name: shapes[name]["tokens"]["distance_within"] for name in streams},
    }
    return [
        f"{name}: its {sign} is {value:.2g}, video's is {of['video']:.2g}"
        for sign, of in signs.items()
        for name, value in of.items()
        if value < _POOR * of["video"]
    ]


def _pictures(
    words: Tensor, meters: Mapping[str, StreamMeter], streams: Mapping[str, Any], tsne: bool
) -> dict[str, Figure]:
    if not meters:
        return {}
    rows = {name: meter.tokens.sample().rows for name, meter in meters.items()}
    return {
        "interface": draw_interface({WORDS: words[:ROWS], **rows}, tsne),
        "names": draw_names({name: one["names"] for name, one in streams.items()}),
        "layers": draw_layers({name: one["variance_per_layer"] for name, one in streams.items()}),
    }
