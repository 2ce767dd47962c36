"""Model cards of a run's adapters, made of what the run's folder holds and nothing else.

A card has no date and no path of this machine, so that a resumed run leaves the same card as one
that was not stopped.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import yaml
from huggingface_hub import ModelCard, ModelCardData
from lightning.pytorch.utilities import rank_zero_warn

from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.io.files import atomic_file
from vlynx_pl.io.markdown import table
from vlynx_pl.runs.provenance import last_session
from vlynx_pl.stream_reduction import reducing_settings

CARD: Final = "README.md"
_PAPER: Final = "[V-LynX](https://arxiv.org/abs/2606.00508)"
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_HEALTH: Final = {
    "sample_variance": "variance between samples",
    "effective_rank": "effective rank",
}


class _Result(NamedTuple):
    title: str
    table: str
    remarks: Sequence[str]


def write_cards(run: Path, new: Mapping[str, Any] = _NOTHING) -> None:
    """Write the card of each adapter that a run has saved, atomically.

    Args:
        run: its folder.
        new: results that are about to be written there, ``report`` or ``scores-<split>``. Cards
            come first, as results mark the run as finished. They matter more than cards, so a card
            that cannot be made is a warning.
    """
    for config in sorted(run.glob("adapters/*/adapter_config.json")):
        try:
            text = card(config.parent, run, new)
        except UserError as error:
            rank_zero_warn(f"{config.parent} has no new model card: {error}")
            continue
        with atomic_file(config.parent / CARD) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def card(
    folder: Path, run: Path, new: Mapping[str, Any] = _NOTHING, licence: str | None = None
) -> str:
    """Make the card of a saved adapter.

    Args:
        folder: of the adapter.
        run: folder of the run that trained it.
        new: see :func:`write_cards`.
        licence: of the adapter, by its name on the Hugging Face hub.

    Raises:
        UserError: a file of the run cannot be read.
    """
    lora = _read(folder / "adapter_config.json")
    made_with = _read(folder / "made_with.json", "backbone", "frames", "data", "modules")
    kind, _, of = folder.name.partition("-")
    reads = made_with.get("reads", {})
    modalities = [of] if kind == "vision" else [name for name in reads if name != "video"]
    name = made_with["backbone"]
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists()
    backbone = name if hub else Path(name).name
    described = ModelCardData(
        base_model=backbone if hub else None,
        library_name="peft",
        license=licence,
        pipeline_tag="video-text-to-text",
        tags=["v-lynx", "lora", *modalities],
    )
    results: dict[str, Any] = {path.stem: _read(path) for path in sorted(run.glob("report.json"))}
    for path in sorted([*run.glob("scores-*.json"), *run.glob("eval-*/scores-*.json")]):
        results[path.relative_to(run).with_suffix("").as_posix()] = _read(path)
    made = ModelCard.from_template(
        described,
        template_str=(resources.files("vlynx_pl.runs") / "card.md").read_text(encoding="utf-8"),
        name=folder.name,
        kind=kind,
        summary=_summary(kind, of, backbone, modalities),
        backbone=backbone,
        fingerprint=made_with.get("fingerprint"),
        quantization=made_with.get("quantization"),
        modality=", ".join(modalities) or "none, plain video",
        adapter=_adapter(lora),
        data=made_with["data"],
        code=_code(run),
        results=[one for each in {**results, **new}.items() for one in _results(*each)],
        frames=yaml.safe_dump(
            made_with["frames"], sort_keys=False, default_flow_style=None, width=100
        ),
        reading=_reading(kind, reads),
        module=made_with["modules"][kind],
        command=f"vlynx tune TASK --aligned FOLDER # a task with the modality {of}"
        if kind == "vision"
        else f"vlynx eval {of} --tuned FOLDER --aligned FOLDER{_reducing(reads)}",
        licence=licence,
    )
    return str(made)


def _read(path: Path, *needed: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if lacking := sorted(set(needed) - found.keys()):
            raise ValueError(f"it has no {lacking[0]}")
    except (*PARSE_ERRORS, AttributeError) as error:
        raise UserError(
            f"{path} cannot be used for a model card ({error}); copy the run again, or train it "
            "again if an older version made it"
        ) from error
    return found


def _summary(kind: str, of: str, backbone: str, modalities: Sequence[str]) -> str:
    if kind == "vision":
        return (
            f"An adapter with which the vision encoder of `{backbone}` turns frames of `{of}` into "
            f"tokens that its LLM understands, trained by the method of {_PAPER}."
        )
    read = " and ".join(["video", *(f"`{one}`" for one in modalities)])
    return (
        f"An adapter with which the LLM of `{backbone}` answers the questions of `{of}` from the "
        f"tokens of {read}, trained by the method of {_PAPER}."
    )


def _reading(kind: str, reads: Mapping[str, Mapping[str, Any]]) -> str:
    """Tell with what each stream is read."""
    if kind == "vision":
        return "Only frames of the modality are read with this adapter, plain video without it."
    lines = ["Plain video is read without vision adapters."]
    for name, how in reads.items():
        if reducer := how.get("reduce"):
            lines.append(
                f"Of `{name}`, the LLM reads only some tokens ({reducer}), which V-LynX chooses."
            )
        if name == "video":
            continue
        if "adapter" not in how:
            lines.append(f"`{name}` is read through PAVE's patch, which needs V-LynX.")
        elif how["adapter"] is None:
            lines.append(f"`{name}` is read without one, too.")
        else:
            lines.append(f"`{name}` is read with `adapters/vision-{name}`.")
    return " ".join(lines)


def _reducing(reads: Mapping[str, Mapping[str, Any]]) -> str:
    """The options of a command that reduces the streams in the same way."""
    return "".join(
        f" --model.streams.{name}="
        + shlex.quote(value if isinstance(value, str) else json.dumps(value))
        for name, value in reducing_settings(reads).items()
    )


def _adapter(lora: Mapping[str, Any]) -> str:
    variants = {"use_dora": "DoRA", "use_rslora": "rsLoRA"}
    kind = next((name for setting, name in variants.items() if lora.get(setting)), "LoRA")
    return f"{kind}, rank {lora.get('r')}, alpha {lora.get('lora_alpha')}"


def _code(run: Path) -> str:
    git = (last_session(run) or {}).get("git")
    if git is None:
        return "V-LynX, commit unknown"
    return f"V-LynX, commit `{git['commit']}`{' with changes' if git['dirty'] else ''}"


def _results(name: str, found: Mapping[str, Any]) -> Iterator[_Result]:
    """The parts of a card that tell of a report, or of the scores of a split."""
    if name == "report":
        yield _alignment(found)
        return
    yield _scores(f"`{name}`", found)
    if probe := found.get("probe"):
        yield _probe(probe)


def _alignment(report: Mapping[str, Any]) -> _Result:
    ways = [report[way] for way in ("video", "before", "after")]
    layers = [way["attention_per_layer"] for way in ways]
    rows = [
        ["L_attn, mean of the layers", *(f"{sum(each) / len(each):.3f}" for each in layers)],
        ["L_stat", *(f"{way['stat']:.2f}" for way in ways)],
    ]
    for sign, title in _HEALTH.items():
        rows.append([f"health: {title}", *(f"{way[sign]:.3g}" for way in ways)])
    return _Result(
        "Alignment, on held-out frames",
        table(["", "RGB video", "before", "after"], rows),
        report["warnings"] or ["Health: no sign that the tokens have collapsed."],
    )


def _scores(title: str, found: Mapping[str, Any]) -> _Result:
    rows = [
        [f"`{name}`", format(figure, ".0f" if "/n_" in name else ".2f"), _range(found, name)]
        for name, figure in found.items()
        if "/" in name
    ]
    remarks = [f"`{name}` could not be computed." for name in found.get("failed", ())]
    remarks.append("In percent, CIDEr × 100. A failed question counts as wrong.")
    return _Result(title, table(["score", "figure", "95 % interval"], rows), remarks)


def _probe(probe: Mapping[str, Any]) -> _Result:
    rows = [
        [
            way,
            f"{row['score']:.2f}",
            f"{row['difference']:+.2f}",
            _range(row, "interval"),
            f"{row['changed']:.0f} %",
        ]
        for way, row in probe.items()
        if isinstance(row, Mapping)
    ]
    header = [f"`{probe['figure']}`", "score", "difference", "95 % interval", "changed answers"]
    remarks = [f"As is, the score is {probe['score']:.2f}.", *probe["warnings"]]
    return _Result("What the answers depend on", table(header, rows), remarks)


def _range(found: Mapping[str, Any], name: str) -> str:
    low_and_high = found.get("intervals", found).get(name)
    return "" if low_and_high is None else "[{:.2f}, {:.2f}]".format(*low_and_high)
