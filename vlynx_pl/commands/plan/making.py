"""The plan of a run, from its configuration.

The losses of the stage are computed and differentiated with tensors that have no values, so nothing
is downloaded, and shapes, dtypes and adapters are those of the run.
"""

import math
import re
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any, Final, NamedTuple

import torch
import yaml
from jsonargparse import SUPPRESS, ArgumentParser
from lightning import Trainer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from datamodules.base import ModalityDataModule
from vlynx_pl.adapter_training import AdapterTraining
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import VideoBackbone, backbone_without_weights
from vlynx_pl.commands.configuration import explain_errors, instantiate, prepare
from vlynx_pl.commands.plan.costs import Line, Measure
from vlynx_pl.commands.plan.needs import Llm, Plan, Vision
from vlynx_pl.guidance import GuidanceSource, GuidanceStatistics, InterfaceGuidance
from vlynx_pl.memory import without_values
from vlynx_pl.prefix_sharing import Branch, question_losses
from vlynx_pl.tuning import InstructionTuning

_AUTOCAST: Final = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_WORD: Final = re.compile(r"<[|/]?\w+\|?>|[\u4e00-\u9fff]|\d|[^\W\d\u4e00-\u9fff]+|[^\w ]")
_BYTES: Final = {"nf4": 0.516, "int8": 1.002}  # of a weight, its scales included


class _Stage(NamedTuple):
    """What depends on the stage; see :class:`Plan`."""

    visions: list[Vision]
    llm: Llm | None
    disk: dict[str, int]
    lines: list[Line]  # all that was measured


def parsed_run(prog: str, arguments: list[str]) -> dict[str, Any]:
    """Parse the configuration of a fit, and make none of its objects.

    Returns:
        Its ``backbone``, ``model``, ``data`` and ``trainer``, with defaults, as plain data.

    Raises:
        UserError: it cannot be used.
    """
    prepare(arguments)
    parser = ArgumentParser(prog=prog, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a configuration of a run, or of a part")
    parser.add_argument("--backbone", type=VideoBackbone, required=True)
    parser.add_subclass_arguments(AdapterTraining, "model", skip={"backbone"}, required=True)
    parser.add_subclass_arguments(ModalityDataModule, "data", required=True)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False)
    for ignored in ("checkpoint", "run", "seed_everything", "ckpt_path", "weights_only", "verbose"):
        parser.add_argument(f"--{ignored}", type=Any, help=SUPPRESS)
    with explain_errors("these settings"):
        parsed: dict[str, Any] = yaml.safe_load(
            parser.dump(parser.parse_args(arguments), skip_none=False)
        )
    return parsed


def make_plan(run: Mapping[str, Any], question_tokens: int | None = None) -> Plan:
    """Measure what a run needs, without weights.

    Args:
        run: its ``backbone``, ``model``, ``data`` and ``trainer``.
        question_tokens: of the questions and answers of a clip; None is ``model.question_budget``.

    Raises:
        UserError: the configuration cannot be used.
    """
    loaded, trainer = run["backbone"]["init_args"], run["trainer"]
    settings = run["model"]["init_args"]
    backbone = backbone_without_weights(
        loaded["path"], loaded.get("dtype", "bfloat16"), loaded.get("side")
    )
    with torch.device("meta"):
        model = _without_adapters(run["model"])
        module: AdapterTraining = instantiate(AdapterTraining, model, backbone=backbone)
        if isinstance(module, InterfaceAlignment):
            _guide(module)
    backbone.frame_chunk = None  # what each frame needs is measured
    size = backbone.frame_size
    data: ModalityDataModule = instantiate(ModalityDataModule, run["data"], frame_size=size)
    with torch.no_grad():
        at_once = backbone.frames_at_once
    assert at_once is not None
    weights = sum(p.nbytes for p in module.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    with without_values(module):
        measure = Measure(module.train(), _AUTOCAST.get(trainer["precision"]))
        if isinstance(module, InterfaceAlignment):
            stage = _alignment(module, data, measure)
        else:
            assert isinstance(module, InstructionTuning)
            stage = _tuning(module, data, measure, question_tokens or module.question_budget)
    return Plan(
        weights=weights - _quantized(backbone, loaded.get("quantization")),
        trained=trained,
        rest=max(0.0, *(line.base - weights - 4 * trained for line in stage.lines)),
        visions=tuple(stage.visions),
        llm=stage.llm,
        clips=data.batch_size,
        ranks=math.prod(_count(trainer[name]) for name in ("devices", "num_nodes")),
        epochs=trainer["max_epochs"] or 1,
        frame_chunk=settings.get("frame_chunk", "auto"),
        checkpointing=settings.get("checkpointing", "auto"),
        disk=stage.disk,
        at_once=at_once,
    )


def _alignment(module: InterfaceAlignment, data: ModalityDataModule, measure: Measure) -> _Stage:
    [modality] = data.joined.each
    frames = modality.clip_frames(data.joined.spec_of(modality))
    line = measure.line(lambda n: module.losses(measure.frames(n))["total"], 2)
    guidance = sum(getattr(module, f"reference_{name}").nbytes for name in ("keys", "values"))
    return _Stage(
        visions=[Vision((frames,), line.each, _token_bytes(module.backbone), True)],
        llm=None,
        disk={"guidance": guidance, "frame cache": frames * _frame_bytes(module.backbone)},
        lines=[line],
    )


def _tuning(
    module: InstructionTuning, data: ModalityDataModule, measure: Measure, asked: int
) -> _Stage:
    streams, backbone = module.streams, module.backbone
    timestamps, frames = {"video": data.frames}, {"video": data.frames}
    for one in data.joined.each:
        timestamps[one.name] = data.joined.spec_of(one).frames
        frames[one.name] = timestamps[one.name] * one.frames_per_timestamp
    trained = [name for _, name in streams.trained_adapters().values()]
    frozen = [name for name in streams.names if name not in trained]
    visions, lines = [], []
    for names, adapter in ((trained, next(iter(trained), None)), (frozen, None)):
        if names:
            line = measure.line(partial(measure.encode, adapter), 2)
            calls = tuple(frames[name] for name in names)
            output = _token_bytes(backbone)
            visions.append(Vision(calls, line.each, output, adapter is not None))
            lines.append(line)
    episode = {"times": {name: range(timestamps[name]) for name in streams.names}}
    with unset_fake_temporarily():  # the numbers of kept tokens are values
        tokens = backbone.prompt_length(streams.outline(episode), words) + asked
        stored = streams.kept_bytes(episode)

    def learn(count: int) -> Tensor:
        questions = count * asked // tokens
        branch = Branch("", [0] * questions, [i % 4 == 0 for i in range(questions)])
        prefix = backbone.text([0] * (count - questions), range(count - questions))
        return question_losses(backbone, prefix, [branch], module.task).sum()

    costs = {}
    for checkpointing in (False, True):
        if checkpointing:
            backbone.checkpoint_llm()
            module.train()
        costs[checkpointing] = measure.line(learn, tokens)
    disk = {
        "token store": stored,
        "frame cache": _frame_bytes(backbone) * sum(frames[name] for name in streams.names),
    }
    return _Stage(visions, Llm(tokens, costs), disk, [*lines, *costs.values()])


def words(text: str) -> int:
    """Count about as many tokens as the tokenizer of an LLM, which has not been loaded."""
    return len(_WORD.findall(text))


def _quantized(backbone: VideoBackbone, quantization: str | None) -> int:
    """Bytes that quantization saves in the LLM's linear layers."""
    if quantization is None:
        return 0
    layers = (m for m in backbone.language_model.modules() if isinstance(m, nn.Linear))
    frozen = [layer.weight for layer in layers if not layer.weight.requires_grad]
    return sum(int(w.nbytes - w.numel() * _BYTES[quantization]) for w in frozen)


def _without_adapters(model: Mapping[str, Any]) -> dict[str, Any]:
    """Change a model's configuration so that it reads no files."""
    made = deepcopy(dict(model))
    given: dict[str, Any] = made["init_args"]
    if "checkpointing" in given:
        given |= {"checkpointing": False, "llm_adapter": None}
        streams = (given["streams"] or {}).get("init_args", {})
        for name in streams.get("modalities") or {}:
            streams["modalities"][name] = "base"
    return made


def _guide(module: InterfaceAlignment) -> None:
    """Give a guidance of the right shapes to an alignment."""
    sums = GuidanceStatistics(module.backbone)
    keys, tokens = sums.key_sum.float(), sums.token_moments[0].float()
    source = GuidanceSource.of(module.backbone, module.objective.include_newline)
    module.use_guidance(InterfaceGuidance(keys, keys, tokens, tokens, 0, 0, source))
    module.use_attention_floor(torch.zeros(len(keys)))


def _token_bytes(backbone: VideoBackbone) -> int:
    """Bytes of a frame's tokens: as computed, joined over chunks, and in float32."""
    each = 2 * backbone.dtype.itemsize + 4
    return backbone.tokens_per_frame * backbone.token_size * each


def _frame_bytes(backbone: VideoBackbone) -> int:
    return 3 * math.prod(backbone.frame_size)


def _count(given: Any) -> int:
    """A number of devices or nodes, as Lightning reads it; ``auto`` and all (-1) count as one."""
    if isinstance(given, str) and "," in given:
        given = given.strip(",").split(",")
    if isinstance(given, list):
        return len(given)
    return int(given) if str(given).isdigit() else 1
