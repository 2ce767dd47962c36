"""Merges a tuned run's adapters into its model, and compares the answers before and after."""

import copy
import json
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from torch import Tensor

from datamodules.base import ModalityDataModule
from vlynx_pl.commands.asking import as_episode, clip_of, open_run, read_configuration
from vlynx_pl.commands.configuration import instantiate
from vlynx_pl.commands.export.answer import FAMILIES, ExportedModel
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.files import atomic_folder
from vlynx_pl.io.progress import track
from vlynx_pl.questions import Question
from vlynx_pl.runs.run_folder import plain_data
from vlynx_pl.stream_tokens import StreamTokens
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning


class _Asked(NamedTuple):
    """Questions about a clip with the answers before merging."""

    clip: dict[str, Tensor]  # as the exported model reads it
    questions: Sequence[Question]
    answers: Sequence[str]


def export(run: Path, out: Path, questions: int = 100) -> None:
    """Write a tuned run as a model that answers with transformers alone.

    The folder holds the model with the LLM's adapter merged into it and the base vision encoder,
    ``vision-<modality>/`` with a merged encoder, the processor, ``streams.json`` and ``answer.py``.
    ``comparison.json`` tells how many of the run's validation questions the exported model answers
    as the run does.

    Args:
        run: folder of a tuned run.
        out: new folder.
        questions: of the run's validation split, to compare; 0 for none.

    Raises:
        UserError: the folder exists, the run is not tuned or cannot be merged, or its data cannot
            be used.
    """
    if out.exists():
        raise UserError(f"{out} exists; give a new folder")
    _refuse_what_cannot_be_merged(run)
    module = open_run(run)[0]
    family = module.backbone.model.config.model_type
    if family not in FAMILIES:
        raise UserError(
            f"{run} has a backbone of the family {family}, which cannot be exported; only "
            f"{', '.join(FAMILIES)} can"
        )
    asked = list(_asked(run, module, questions)) if questions else []
    device = module.device
    with atomic_folder(out) as unfinished:
        _write(module, unfinished)
        del module  # before the exported model takes as much memory again
        compared = _compared(ExportedModel(unfinished, device), asked)
        (unfinished / "comparison.json").write_text(json.dumps(compared, indent=1))
    result = "was not compared to its run"
    if asked:
        same, count, dtype = (compared[name] for name in ("same", "questions", "dtype"))
        result = f"answers {same} of {count} validation questions exactly as {run} does, in {dtype}"
    Console().print(f"The model in {out} {result}", markup=False, soft_wrap=True)


def _refuse_what_cannot_be_merged(run: Path) -> None:
    """Raise UserError before a model is loaded."""
    configuration = read_configuration(run)
    streams = instantiate(StreamTokens, configuration["model"]["init_args"]["streams"])
    if type(streams) is not AlignedStreams:
        raise UserError(
            f"{run} reads its streams through {type(streams).__name__}, which cannot be merged "
            "into a model; export a run with AlignedStreams"
        )
    if streams.reduction.groups:
        raise UserError(
            f"{run} keeps some tokens of its streams (model.streams.keep), which the exported "
            "script cannot choose; export a run that reads all of them"
        )
    if quantization := (configuration["backbone"].get("init_args") or {}).get("quantization"):
        raise UserError(
            f"{run} has a quantized LLM ({quantization}), into which an adapter cannot be merged "
            "without loss; tune again with --backbone.quantization=null, and export that run"
        )


def _asked(run: Path, module: InstructionTuning, most: int) -> Iterator[_Asked]:
    """Ask the first questions of the run's validation split, as vlynx ask does."""
    backbone = module.backbone
    data: ModalityDataModule = instantiate(
        ModalityDataModule,
        plain_data(run / "config.yaml")["data"],
        frame_size=backbone.frame_size,
        test_split="val",
    )
    data.setup("test")
    for episode in track(data.episodes("val"), "Answering", len(data.episodes("val"))):
        if most <= 0:
            break
        read = as_episode(data.joined.streams(episode).read(), backbone)
        chosen = episode.questions[:most]
        most -= len(chosen)
        yield _Asked(clip_of(read), chosen, module.answers({**read, "questions": chosen}))


def _write(module: InstructionTuning, out: Path) -> None:
    """Merge the adapters into the model, which is changed, and write everything."""
    backbone, streams = module.backbone, module.streams
    reads = {"video": {"adapter": None}, **streams.reads()}
    settings = {
        "encoders": {name: how["adapter"] and f"vision-{name}" for name, how in reads.items()},
        "modules": backbone.adapted_modules,
        "grid": backbone.token_grid,
        "chat": backbone.chat._asdict(),
        "max_new_tokens": module.max_new_tokens,
    }
    adapted = [name for name, how in reads.items() if how["adapter"]]
    for name in adapted:
        adapters = copy.deepcopy(backbone.vision_adapters)
        merged = adapters.merge_and_unload(safe_merge=True, adapter_names=[name])
        merged.save_pretrained(out / f"vision-{name}")
    if adapted:
        backbone.vision_adapters.unload()
    backbone.llm_adapters.merge_and_unload(safe_merge=True, adapter_names=[module.task])
    backbone.model.save_pretrained(out)
    assert backbone.processor is not None
    backbone.processor.save_pretrained(out)
    (out / "streams.json").write_text(json.dumps(settings, indent=1))
    script = resources.files("vlynx_pl.commands.export") / "answer.py"
    (out / "answer.py").write_text(script.read_text(encoding="utf-8"), encoding="utf-8")


def _compared(model: ExportedModel, asked: Sequence[_Asked]) -> dict[str, Any]:
    different = []
    for one in track(asked, "Comparing", len(asked)):
        dialogues = [[*question.history, (question.prompt, None)] for question in one.questions]
        after = model.answers(one.clip, dialogues)
        different += [
            {"id": question.id, "before": before, "after": said}
            for question, before, said in zip(one.questions, one.answers, after, strict=True)
            if before != said
        ]
    count = sum(len(one.questions) for one in asked)
    dtype = str(model.model.dtype).removeprefix("torch.")
    same = count - len(different)
    return {"questions": count, "same": same, "dtype": dtype, "different": different}
