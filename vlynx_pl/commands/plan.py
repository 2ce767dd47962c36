"""``vlynx plan``: memory and time of training, from a configuration alone.

The losses of the stage are computed and differentiated with tensors that have no values, so nothing
is downloaded, and shapes, dtypes and adapters are those of the run. Inputs of two sizes give the
cost of each further frame and token.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

import torch
import yaml
from jsonargparse import SUPPRESS, ArgumentParser
from lightning import Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

from datamodules.base import ModalityDataModule
from vlynx_pl.adapter_training import AdapterTraining
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import VideoBackbone, backbone_without_weights
from vlynx_pl.commands.configuration import explain_errors, instantiate, prepare
from vlynx_pl.flops import PEAK_FLOPS
from vlynx_pl.guidance import GuidanceSource, GuidanceStatistics, InterfaceGuidance
from vlynx_pl.io.errors import UserError
from vlynx_pl.memory import STATES, TensorBytes, fitting, total_bytes, without_values
from vlynx_pl.prefix_sharing import Branch, question_losses
from vlynx_pl.tuning import InstructionTuning


class Gpu(NamedTuple):
    """A GPU: the memory that programs can use, and its speed."""

    gib: float
    peak: float  # FLOP/s


GPUS: Final = {
    "H200": Gpu(139.8, PEAK_FLOPS["NVIDIA H200"]),
    "H100": Gpu(79.1, PEAK_FLOPS["NVIDIA H100 80GB HBM3"]),
    "A100-80GB": Gpu(79.1, PEAK_FLOPS["NVIDIA A100-SXM4-80GB"]),
    "A100-40GB": Gpu(39.4, PEAK_FLOPS["NVIDIA A100-SXM4-40GB"]),
    "L40S": Gpu(44.4, PEAK_FLOPS["NVIDIA L40S"]),
    "RTX-4090": Gpu(23.5, PEAK_FLOPS["NVIDIA GeForce RTX 4090"]),
    "RTX-3090": Gpu(23.6, PEAK_FLOPS["NVIDIA GeForce RTX 3090"]),
}
MFU: Final = 0.35
"""Assumed share of a GPU's speed that training reaches."""

_CUDA: Final = 2**29  # bytes that CUDA takes for itself
_AUTOCAST: Final = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_PROMPT: Final = 14  # tokens before the video
_BYTES: Final = {"nf4": 0.516, "int8": 1.002}  # of a weight, its scales included
_ATEN: Final = torch.ops.aten
_FLOPS: Final = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _ATEN._scaled_dot_product_flash_attention
    ],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}


class _Counter(TensorBytes):  # type: ignore[no-untyped-call]
    """Also counts the floating point operations of matrix products and attention.

    torch's FlopCounterMode has the same formulas, but keeps recomputed tensors alive.
    """

    flops = 0

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = super().__torch_dispatch__(func, types, args, kwargs)
        if count := _FLOPS.get(func.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=made)
        return made


class _Cost(NamedTuple):
    """Cost of a forward and backward pass, or of one frame or token in it."""

    kept: float  # bytes after the forward pass
    peak: float  # bytes
    forward: float  # FLOP of the forward pass
    flops: float  # FLOP of both


class _Line(NamedTuple):
    """Costs for inputs of any size."""

    base: _Cost
    each: _Cost  # of a frame or token
    whole: _Cost  # of the larger input that was measured


@dataclass(frozen=True)
class _Vision:
    """Calls of the vision encoder in a step.

    Args:
        calls: frames of each call.
        each: cost of a frame.
        output: bytes of a frame's tokens, which outlive its chunk.
        trained: whether it is trained.
    """

    calls: tuple[int, ...]
    each: _Cost
    output: int
    trained: bool

    def recomputes(self, chunk: int | None) -> bool:
        """Whether the backward pass computes the forward pass again."""
        return self.trained and chunk is not None and chunk < max(self.calls)

    def peak(self, chunk: int | None) -> float:
        """Bytes at the peak."""
        if not self.trained or self.recomputes(chunk):
            live = min(chunk or max(self.calls), max(self.calls))
        else:
            live = sum(self.calls)
        return live * self.each.peak + self.trained * sum(self.calls) * self.output

    def flops(self, chunk: int | None) -> float:
        """FLOP of a step."""
        again = self.each.forward if self.recomputes(chunk) else 0
        return sum(self.calls) * (self.each.flops + again)


@dataclass(frozen=True)
class _Llm:
    """Sequences of the LLM in a step.

    Args:
        sequences: their number.
        tokens: of each.
        lines: costs up to as many tokens, for ``checkpointing`` true and false.
    """

    sequences: int
    tokens: int
    lines: Mapping[bool, _Line]

    def kept(self, checkpointing: bool) -> float:
        """Bytes that autograd keeps of all sequences."""
        return self.sequences * self.tokens * self.lines[checkpointing].each.kept

    def recomputed(self, checkpointing: bool) -> float:
        """Further bytes in the backward pass of a sequence."""
        each = self.lines[checkpointing].each
        return self.tokens * (each.peak - each.kept)


class Fit(NamedTuple):
    """A training step on a GPU."""

    frame_chunk: int | None
    checkpointing: bool
    peak: float  # bytes
    flops: float


@dataclass(frozen=True)
class Plan:
    """What a process of a run needs.

    Args:
        weights: bytes of the frozen model.
        trained: number of trained parameters, which are float32.
        rest: bytes of other tensors that do not depend on the batch.
        visions: the vision encoder, frozen, trained, or both.
        llm: None in alignment.
        clips: per step, over all processes.
        epochs: of the run.
        frame_chunk: ``model.frame_chunk``.
        checkpointing: ``model.checkpointing``.
        disk: what a run may keep on disk → bytes for each clip, or for all.
        at_once: maximum frames at once where the encoder is frozen.
    """

    weights: int
    trained: int
    rest: float
    visions: tuple[_Vision, ...]
    llm: _Llm | None
    clips: int
    epochs: int
    frame_chunk: int | str | None
    checkpointing: bool | str
    disk: Mapping[str, int]
    at_once: int

    def fixed(self) -> dict[str, float]:
        """Bytes that do not depend on the batch."""
        return {
            "frozen weights": self.weights,
            "adapters": 4 * self.trained,
            "gradients and AdamW": STATES * self.trained,
            "guidance and others": self.rest,
        }

    def fit(self, gib: float) -> Fit:
        """Choose what is ``auto`` as training does, with so many GiB."""
        free = int(gib * 2**30) - _CUDA - self.weights - 4 * self.trained
        kept = again = flops = 0.0
        checkpointing = False
        if (llm := self.llm) is not None:
            checkpointing = self.checkpointing is True
            if self.checkpointing == "auto":
                fits = fitting(free, self.trained, int(llm.lines[False].each.kept))
                checkpointing = llm.sequences * llm.tokens > fits
            kept, again = llm.kept(checkpointing), llm.recomputed(checkpointing)
            flops = llm.sequences * llm.lines[checkpointing].whole.flops
        peaks = [again]
        chunk = None if self.frame_chunk == "auto" else self.frame_chunk
        assert not isinstance(chunk, str)
        for vision in self.visions:
            if vision.trained and self.frame_chunk == "auto":
                fits = max(1, fitting(free - int(kept), self.trained, int(vision.each.kept)))
                chunk = None if sum(vision.calls) <= fits else max(1, fits // len(vision.calls))
            used = chunk if vision.trained else min(chunk or self.at_once, self.at_once)
            peaks.append(vision.peak(used))
            flops += vision.flops(used)
        return Fit(chunk, checkpointing, sum(self.fixed().values()) + kept + max(peaks), flops)


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
    backbone = backbone_without_weights(loaded["path"], loaded.get("dtype", "bfloat16"))
    with torch.device("meta"):
        model = _without_adapters(run["model"])
        module: AdapterTraining = instantiate(AdapterTraining, model, backbone=backbone)
        if isinstance(module, InterfaceAlignment):
            _guide(module)
    backbone.frame_chunk = None  # what each frame needs is measured
    size = backbone.frame_size
    data: ModalityDataModule = instantiate(ModalityDataModule, run["data"], frame_size=size)
    ranks = math.prod(_count(trainer[name]) for name in ("devices", "num_nodes"))
    clips = math.ceil(data.batch_size / ranks)
    frozen = [p for p in module.parameters() if not p.requires_grad]
    plan = Plan(
        weights=sum(p.nbytes for p in frozen),
        trained=sum(p.numel() for p in module.parameters() if p.requires_grad),
        rest=0,
        visions=(),
        llm=None,
        clips=data.batch_size,
        epochs=trainer["max_epochs"] or 1,
        frame_chunk=run["model"]["init_args"].get("frame_chunk", "auto"),
        checkpointing=run["model"]["init_args"].get("checkpointing", "auto"),
        disk={},
        at_once=_frames_without_gradients(backbone),
    )
    with without_values(module):
        measure = _Measure(module.train(), _AUTOCAST.get(trainer["precision"]))
        if isinstance(module, InterfaceAlignment):
            plan = _alignment(plan, module, data, clips, measure)
        else:
            assert isinstance(module, InstructionTuning)
            plan = _tuning(plan, module, data, clips, measure, question_tokens)
    saved = _quantized(backbone, loaded.get("quantization"))
    return replace(plan, weights=plan.weights - saved)


@dataclass(frozen=True)
class _Measure:
    module: AdapterTraining
    autocast: torch.dtype | None

    def cost(self, forward: Callable[[], Tensor]) -> _Cost:
        """Measure a forward pass, and the backward pass where there is one."""
        self.module.zero_grad()
        counter = _Counter(self.module)
        enabled = self.autocast is not None
        with counter, torch.autocast("cpu", self.autocast or torch.bfloat16, enabled=enabled):
            result = forward()
            kept, first = counter.held, counter.flops
            if result.requires_grad:
                result.backward()  # type: ignore[no-untyped-call]
        return _Cost(kept, counter.peak, first, counter.flops)

    def line(self, forward: Callable[[int], Tensor], size: int) -> _Line:
        """Measure inputs of half of ``size`` and of ``size``."""
        half = size // 2
        small, large = (self.cost(partial(forward, count)) for count in (half, size))
        each = _Cost(*((b - a) / (size - half) for a, b in zip(small, large, strict=True)))
        base = _Cost(*(a - half * b for a, b in zip(small, each, strict=True)))
        return _Line(base, each, large)

    def encode(self, adapter: str | None, count: int) -> Tensor:
        """Encode frames, with gradients only if there is an adapter."""
        with torch.set_grad_enabled(adapter is not None):
            return self.module.backbone.encode(self.frames(count), adapter).sum()

    def frames(self, count: int) -> Tensor:
        backbone = self.module.backbone
        return torch.zeros(1, count, 3, *backbone.frame_size, dtype=backbone.dtype)


def _alignment(
    plan: Plan,
    module: InterfaceAlignment,
    data: ModalityDataModule,
    clips: int,
    measure: _Measure,
) -> Plan:
    [modality] = data.joined.each
    frames = clips * modality.clip_frames(data.joined.spec_of(modality))
    line = measure.line(lambda n: module.losses(measure.frames(n))["total"], 2)
    vision = _Vision((frames,), line.each, _token_bytes(module), True)
    guidance = sum(getattr(module, f"reference_{name}").nbytes for name in ("keys", "values"))
    disk = {"guidance": guidance, "frame cache": _frame_bytes(module) * (frames // clips)}
    return replace(plan, rest=_rest(plan, line), visions=(vision,), disk=disk)


def _tuning(
    plan: Plan,
    module: InstructionTuning,
    data: ModalityDataModule,
    clips: int,
    measure: _Measure,
    question_tokens: int | None,
) -> Plan:
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
            calls = tuple(frames[name] for name in names) * clips
            visions.append(_Vision(calls, line.each, _token_bytes(module), adapter is not None))
            lines.append(line)
    episode = {"times": {name: range(timestamps[name]) for name in streams.names}}
    asked = question_tokens or module.question_budget
    tokens = _PROMPT + streams.visual_tokens(episode) + asked

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
        "token store": streams.kept_bytes(episode),
        "frame cache": _frame_bytes(module) * sum(frames[name] for name in streams.names),
    }
    rest = max(_rest(plan, line) for line in [*lines, *costs.values()])
    llm = _Llm(clips, tokens, costs)
    return replace(plan, rest=rest, visions=tuple(visions), llm=llm, disk=disk)


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


def _rest(plan: Plan, line: _Line) -> float:
    return max(0.0, line.base.peak - plan.weights - 4 * plan.trained)


def _token_bytes(module: AdapterTraining) -> int:
    """Bytes of a frame's tokens: as computed, joined over chunks, and in float32."""
    backbone = module.backbone
    each = 2 * backbone.dtype.itemsize + 4
    return backbone.tokens_per_frame * backbone.token_size * each


def _frame_bytes(module: AdapterTraining) -> int:
    return 3 * math.prod(module.backbone.frame_size)


def _frames_without_gradients(backbone: VideoBackbone) -> int:
    with torch.no_grad():
        frames = backbone.frames_at_once
    assert frames is not None
    return frames


def _count(given: Any) -> int:
    """A number of devices or nodes; ``auto`` counts as one."""
    return given if isinstance(given, int) and given > 0 else 1


def fits(plan: Plan, gpu: Gpu) -> bool:
    """Whether a step needs no more than the GPU's memory."""
    return plan.fit(gpu.gib).peak + _CUDA <= gpu.gib * 2**30


def remedies(plan: Plan, gpu: Gpu) -> list[str]:
    """Return the settings that together make a plan fit; empty if these are not enough."""
    chosen = []
    if plan.llm is not None:
        chosen.append("model.checkpointing=true")
        plan = replace(plan, checkpointing=True)
    if any(vision.trained for vision in plan.visions) and not fits(plan, gpu):
        chosen.append("model.frame_chunk=1")
        plan = replace(plan, frame_chunk=1)
    if not fits(plan, gpu):
        chosen.append("data.batch_size=1")
        plan = _one_clip(plan)
    return chosen if fits(plan, gpu) else []


def _one_clip(plan: Plan) -> Plan:
    if plan.llm is None:
        one = [replace(v, calls=(math.ceil(v.calls[0] / plan.clips),)) for v in plan.visions]
        return replace(plan, clips=1, visions=tuple(one))
    each = plan.llm.sequences
    one = [replace(v, calls=v.calls[: len(v.calls) // each]) for v in plan.visions]
    return replace(plan, clips=1, visions=tuple(one), llm=replace(plan.llm, sequences=1))


def as_data(plan: Plan, gpus: Mapping[str, Gpu], clips: int) -> dict[str, Any]:
    """Return the estimate as plain data; memory is in GiB, storage in GB."""
    rows, steps = {}, math.ceil(clips / plan.clips) * plan.epochs
    for name, gpu in gpus.items():
        step = plan.fit(gpu.gib)
        enough = fits(plan, gpu)
        rows[name] = {
            "memory_gib": gpu.gib,
            "peak_gib": round((step.peak + _CUDA) / 2**30, 2),
            "fits": enough,
            "remedies": [] if enough else remedies(plan, gpu),
            "frame_chunk": step.frame_chunk,
            "checkpointing": step.checkpointing,
            "tflop_per_step": round(step.flops / 1e12, 2),
            "hours": round(steps * step.flops / (MFU * gpu.peak) / 3600, 2),
        }
    return {
        "parts_gib": {name: round(size / 2**30, 3) for name, size in plan.fixed().items()},
        "frame_gib": round(max(v.each.kept for v in plan.visions) / 2**30, 4),
        "disk_gb": {
            name: round(size * (1 if name == "guidance" else clips) / 1e9, 3)
            for name, size in plan.disk.items()
        },
        "clips": clips,
        "epochs": plan.epochs,
        "gpus": rows,
    }


def estimate(run: Mapping[str, Any], device: torch.device) -> str:
    """Say in a sentence what a step of a run needs; nothing if it cannot be measured."""
    try:
        plan = make_plan(run)
    except (UserError, RuntimeError):
        return ""
    gib = total_bytes(device) / 2**30
    step = plan.fit(gib)
    parts = {**plan.fixed(), "activations": step.peak - sum(plan.fixed().values())}
    listed = ", ".join(f"{size / 2**30:.2f} {name}" for name, size in parts.items())
    advice = " ".join(f"--{setting}" for setting in remedies(plan, Gpu(gib, 0)))
    return (
        f"By vlynx plan a step needs {step.peak / 2**30:.2f} GiB ({listed}), and this device has "
        f"{gib:.2f}" + (f"; it fits with {advice}" if advice else "")
    )


def print_plan(
    arguments: list[str],
    gpu: str | None,
    clips: int,
    question_tokens: int | None,
    as_json: bool,
) -> None:
    """Print what a run with these arguments needs.

    Raises:
        UserError: the configuration cannot be used, or the GPU is unknown.
    """
    if gpu is not None and gpu not in GPUS:
        raise UserError(f"no figures for the GPU {gpu!r}; there are some for {', '.join(GPUS)}")
    gpus = GPUS if gpu is None else {gpu: GPUS[gpu]}
    run = parsed_run("vlynx plan", arguments)
    with Console(stderr=True).status("Measuring shapes (a minute for a model of 7B)"):
        data = as_data(make_plan(run, question_tokens), gpus, clips)
    if as_json:
        print(json.dumps(data, indent=1))
        return
    _print_tables(data)


def _print_tables(data: Mapping[str, Any]) -> None:
    console = Console()
    parts = Table("needed for any batch", "GiB", title="Memory of a process")
    for name, size in data["parts_gib"].items():
        parts.add_row(name, f"{size:.2f}")
    console.print(parts)
    gpus = Table(title=f"One training step, and {data['clips']:,} clips × {data['epochs']} epochs")
    columns = ("GPU", "GiB", "needed", "frame chunk", "checkpointing", "TFLOP", "hours", "")
    for number, name in enumerate(columns):
        gpus.add_column(name, justify="right" if 0 < number < len(columns) - 1 else "left")
    for name, row in data["gpus"].items():
        gpus.add_row(
            name,
            f"{row['memory_gib']:.0f}",
            f"{row['peak_gib']:.1f}",
            str(row["frame_chunk"] or "all"),
            "yes" if row["checkpointing"] else "no",
            f"{row['tflop_per_step']:,.0f}",
            f"{row['hours']:.1f}",
            "fits" if row["fits"] else "too small",
        )
    console.print(gpus)
    for name, row in data["gpus"].items():
        if not row["fits"]:
            advice = " and ".join(f"--{setting}" for setting in row["remedies"])
            otherwise = "use a smaller backbone, or more GPUs with a smaller share of the batch"
            console.print(f"{name} is too small: {advice or otherwise}")
    stored = ", ".join(f"{name} {size:.1f} GB" for name, size in data["disk_gb"].items())
    console.print(f"On disk, if kept: {stored}.")
    console.print(
        f"Hours assume {MFU:.0%} of the GPU's bfloat16 speed, and no waiting for data; validation "
        "and the guidance come in addition."
    )
