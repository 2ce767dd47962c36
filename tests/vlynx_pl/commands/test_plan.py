"""The plan of a run agrees with what the run then needs."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import MINIATURE
from tests.vlynx_pl.conftest import episode
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import backbone_without_weights, load_backbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.backbones.tiny import write_tiny
from vlynx_pl.commands.configuration import instantiate
from vlynx_pl.commands.plan.making import make_plan, parsed_run, words
from vlynx_pl.commands.plan.needs import GPUS, fits, remedies
from vlynx_pl.commands.plan.printing import estimate
from vlynx_pl.guidance import estimate_guidance
from vlynx_pl.memory import TensorBytes
from vlynx_pl.prefix_sharing import question_branch
from vlynx_pl.tuning import InstructionTuning

BACKBONE = "--config=experiments/backbones/{}.yaml"
ALIGN = [BACKBONE.format("miniature"), "--config=experiments/align/audio.yaml"]
TUNE = [BACKBONE.format("miniature"), "--config=experiments/tune/avqa.yaml"]
QUESTION = 100  # tokens


def planned(arguments, *more):
    return parsed_run("vlynx plan", [*arguments, *more])


def peak_of_second_step(module, loss):
    """Bytes at the peak of a step that finds AdamW's moments."""
    optimizer = torch.optim.AdamW(p for p in module.parameters() if p.requires_grad)
    for _ in range(2):
        optimizer.zero_grad()
        with (tensors := TensorBytes(module)):
            loss().backward()
        optimizer.step()
    moments = sum(t.nbytes for state in optimizer.state.values() for t in state.values())
    return tensors.peak + moments


@pytest.mark.parametrize("chunk", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_alignment_needs_what_its_plan_says(chunk):
    options = ["--data.batch_size=3", "--data.frames=4", f"--model.frame_chunk={chunk or 'null'}"]
    run = planned(ALIGN, *options)
    backbone = load_backbone(str(MINIATURE), "float32")
    module: InterfaceAlignment = instantiate(InterfaceAlignment, run["model"], backbone=backbone)
    frames = torch.randint(0, 256, (3, 4, 3, 64, 64), dtype=torch.uint8)
    module.use_guidance(estimate_guidance(backbone, [frames]))
    needed = peak_of_second_step(module.train(), lambda: module.losses(frames)["total"])
    assert make_plan(run).fit(1000).peak == pytest.approx(needed, rel=0.1)


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("train_vision", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tuning_needs_what_its_plan_says(checkpointing, train_vision, videos):
    options = [
        "--data.batch_size=1",
        "--data.frames=3",
        f"--model.checkpointing={str(checkpointing).lower()}",
        "--model.frame_chunk=null",
        "--model.streams.modalities={audio: base}",
        f"--model.streams.train_vision={str(train_vision).lower()}",
        "--model.lora.rank=8",
    ]
    run = planned(TUNE, *options)
    backbone = load_backbone(str(MINIATURE), "float32")
    module: InstructionTuning = instantiate(InstructionTuning, run["model"], backbone=backbone)
    one = episode(videos, "audio", answers=["a long answer"] * 5)
    reads = backbone.tokenizer, backbone.chat
    tokens = sum(len(question_branch(*reads, q, learnt=True).ids) for q in one["questions"])
    needed = peak_of_second_step(module.train(), lambda: module.losses(one).mean())
    assert make_plan(run, tokens).fit(1000).peak == pytest.approx(needed, rel=0.1)


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", 14 + 20 * 196 + 1),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 14 + 1 + 20 * 196 + 1),
        ("Qwen/Qwen3-VL-2B-Instruct", 3 + 10 * (6 + 198) + 10 * (7 + 198)),  # times in words
    ],
)
def test_a_prompt_is_counted_without_a_tokenizer(model, tokens):
    real = backbone_without_weights(model)
    stream = Stream(torch.empty(20, real.tokens_per_frame, 0), range(20))
    assert real.prompt_length([stream], words) == tokens


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_packed_frames_and_deep_features_are_planned(family, tmp_path):
    write_tiny(family, tmp_path / "tiny")
    tiny = [f"--backbone.init_args.path={tmp_path / 'tiny'}", "--backbone.init_args.side=40"]
    frames = torch.randint(0, 256, (3, 4, 3, 40, 40), dtype=torch.uint8)
    run = planned(ALIGN, *tiny, "--data.frames=4", "--data.batch_size=3")
    backbone = load_backbone(str(tmp_path / "tiny"), "float32", side=40)
    module: InterfaceAlignment = instantiate(InterfaceAlignment, run["model"], backbone=backbone)
    module.use_guidance(estimate_guidance(backbone, [frames]))
    needed = peak_of_second_step(module.train(), lambda: module.losses(frames)["total"])
    assert make_plan(run).fit(1000).peak == pytest.approx(needed, rel=0.1)
    tuning = planned(TUNE, *tiny, "--data.frames=4", "--model.streams.modalities={}")
    plan = make_plan(tuning, QUESTION)
    stream = Stream(torch.empty(4, 25, 0), range(4))
    assert plan.llm.tokens == QUESTION + backbone.prompt_length([stream], words)
    assert plan.disk["token store"] == 4 * 25 * 2 * backbone.token_size


def test_tokens_that_are_dropped_are_not_planned():
    options = ["--data.frames=4", "--model.streams.modalities={audio: base}"]

    def plan(*more):
        return make_plan(planned(TUNE, *options, *more), QUESTION)

    whole, fewer = plan(), plan("--model.streams.keep={audio: 0.25, video: 4}")
    assert whole.llm.tokens - fewer.llm.tokens == 2 * 4 * 12
    kept = whole.disk["token store"]
    assert fewer.disk["token store"] == kept // 4 + 2 * 4 * 16  # and where they were


def test_what_is_automatic_follows_from_the_memory():
    plan = make_plan(planned(ALIGN, "--data.batch_size=4", "--data.frames=8"))
    large = plan.fit(1000)
    small = plan.fit(0.55)
    assert large.frame_chunk is None and 1 <= small.frame_chunk < 32
    assert small.peak < large.peak and small.flops > large.flops


def just_too_small(plan):
    """A GPU that lacks a few bytes for a plan."""
    return GPUS["H200"]._replace(gib=(plan.fit(1000).peak + 2**29 - 16) / 2**30)


def test_settings_that_make_a_run_fit():
    plan = make_plan(planned(ALIGN, "--data.batch_size=8", "--model.frame_chunk=null"))
    gpu = just_too_small(plan)
    assert not fits(plan, gpu) and remedies(plan, gpu) == ["model.frame_chunk=1"]
    assert remedies(plan, gpu._replace(gib=0.5)) == []


@pytest.mark.slow
def test_a_remedy_is_not_in_use_already():
    off = make_plan(planned(TUNE, "--model.checkpointing=false", "--data.batch_size=4"))
    on = replace(off, checkpointing=True)
    assert remedies(off, just_too_small(off)) == ["model.checkpointing=true"]
    assert remedies(on, just_too_small(on)) == ["data.batch_size=1"]
    assert remedies(off, GPUS["H200"]) == []


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["2", "[0, 1]", "0,1"])
def test_ranks_share_a_batch(devices):
    options = ["--data.batch_size=4", "--model.frame_chunk=1", f"--trainer.devices={devices}"]
    plan = make_plan(planned(ALIGN, *options))
    assert remedies(plan, just_too_small(plan)) == ["data.batch_size=2"]
    assert replace(plan, clips=2).fit(1000) == replace(plan, clips=1, ranks=1).fit(1000)


@pytest.mark.slow
def test_quantized_layers_need_less(loaded):
    llm = [m.weight for m in loaded.language_model.modules() if isinstance(m, torch.nn.Linear)]
    plain, small = (
        make_plan(planned(ALIGN, f"--backbone.init_args.quantization={name}")).weights
        for name in ("null", "int8")
    )
    assert plain - small == pytest.approx(3 * sum(w.numel() for w in llm), rel=0.01)


def test_flop_of_a_frame_are_counted(backbone):
    plan = make_plan(planned(TUNE, "--model.streams.modalities={}"), 8)
    [vision] = plan.visions
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        backbone.encode(torch.zeros(1, 1, 3, 64, 64))
    patches, config = math.prod(backbone.patch_grid), backbone.model.config.vision_config
    # torch counts no FLOP for attention on CPUs.
    attention = 4 * patches**2 * config.hidden_size * config.num_hidden_layers
    assert vision.each.forward == counted.get_total_flops() + attention


def test_the_command_prints_tables_or_json(vlynx):
    code, out = vlynx("plan", *ALIGN, "--gpu=L40S", "--clips=10")
    assert code == 0 and "L40S" in out and "H200" not in out and "On disk" in out
    code, out = vlynx("plan", *ALIGN, "--json")
    data = json.loads(out)
    assert code == 0 and set(data["gpus"]) == set(GPUS)
    assert all(row["fits"] for row in data["gpus"].values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu=K80"], r"no figures for the GPU 'K80'.*H200, H100"),
        (["--backbone.init_args.path=nowhere"], r"backbone 'nowhere' .* cannot be loaded"),
        (["--model.frame_chunk=0"], r"model.frame_chunk=0 is not a number of frames"),
    ],
)
def test_what_cannot_be_planned(vlynx, monkeypatch, options, message):
    # Without a network, the hub is tried again for 20 s.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, err = vlynx("plan", *ALIGN, *options)
    assert code == 1 and re.search(message, err)


def test_an_unknown_family_is_refused(vlynx, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    code, err = vlynx("plan", *ALIGN, f"--backbone.init_args.path={tmp_path}")
    assert code == 1
    assert re.search(r"no backbones have model_type 'bert'; installed are .*llava_onevision", err)


def test_the_estimate_for_a_run_out_of_memory(monkeypatch):
    run = planned(ALIGN, "--data.batch_size=8", "--model.frame_chunk=null")
    device = torch.device("cpu")
    monkeypatch.setattr("vlynx_pl.commands.plan.printing.total_bytes", lambda device: 2**30)
    said = estimate(run, device)
    assert re.match(r"By vlynx plan a step needs \d\.\d\d GiB \(0.01 frozen weights, .*, and", said)
    assert said.endswith("has 1.00; it fits with --model.frame_chunk=1")
    gone = {"class_path": "gone.Data", "init_args": {}}
    assert estimate(run | {"data": gone}, device) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "stage", "smallest"),
    [("0.5b", "align/audio", "RTX-4090"), ("7b", "tune/scanqa", "A100-80GB")],
)
def test_default_configurations_fit(size, stage, smallest):
    files = [BACKBONE.format(f"llava_ov_{size}"), f"--config=experiments/{stage}.yaml"]
    assert fits(make_plan(planned(files)), GPUS[smallest])
