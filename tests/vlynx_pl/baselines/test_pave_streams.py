"""PAVE as streams of InstructionTuning: it begins as the base, learns, is saved and resumed."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Callback
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from callbacks import RunCheckpoint
from datamodules import DepthDataModule
from datamodules.benchmarks import ScanQA
from tests.conftest import quiet_trainer
from tests.datamodules.conftest import write_scannet_scene, write_scanqa
from tests.vlynx_pl.conftest import episode, load_miniature, perturbed, saved, tuning
from vlynx_pl.adapters import AdapterError, Lora
from vlynx_pl.baselines.pave_files import read_features
from vlynx_pl.baselines.pave_streams import PatchedVideo
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.tensor_store import TokenStore
from vlynx_pl.runs.checkpoints import newest_checkpoint, read_checkpoint
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning

SMALL = {"hidden": 16, "heads": 2}


def pave(backbone=None, *, side="3d", checkpointing=False, llm_adapter=None, **sizes):
    streams = PatchedVideo(side, **SMALL | sizes)
    return tuning(streams, backbone, checkpointing=checkpointing, llm_adapter=llm_adapter)


@torch.no_grad()
def test_features_come_with_the_tokens_of_the_untouched_base(backbone, videos):
    wanted, model = backbone.encode(videos), backbone.model.model
    seen = model.vision_tower(backbone.normalise(videos)[0], output_hidden_states=True)
    patches = seen.hidden_states[model.config.vision_feature_layer]
    rows, columns = backbone.patch_grid
    pooled = patches.reshape(3, rows // 2, 2, columns // 2, 2, -1).mean((2, 4)).flatten(1, 2)
    backbone.add_vision_adapter("3d", Lora(2, 4))
    for name, parameter in backbone.named_parameters():
        if ".lora_B." in name:
            parameter.data.fill_(0.5)
    features, tokens = backbone.features(videos)
    assert torch.equal(tokens, wanted)
    assert_close(features[0], pooled, atol=1e-5, rtol=1e-4)
    assert features.shape == (*tokens.shape[:-1], backbone.feature_size)
    assert torch.equal(backbone.encode(videos), wanted), "nothing listens any more"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_begins_as_the_base_with_the_video_alone(videos, dtype):
    base = tuning(backbone=load_miniature(dtype))
    patching = pave(load_miniature(dtype))
    asked = episode(videos, "3d")
    with torch.no_grad():
        [patched], [plain] = ([s.tokens for s in each.encode(asked)] for each in (patching, base))
        assert torch.equal(patched, plain) and patched.dtype == plain.dtype
        prompts = [module.backbone.prompt(module.encode(asked)) for module in (base, patching)]
        assert torch.equal(*(prompt.embeddings for prompt in prompts))
        assert torch.equal(patching.losses(asked), base.losses(asked))
    assert patching.answers(asked) == base.answers(asked)
    assert all(
        parameter.dtype == torch.float32 for parameter in patching.streams.patch.parameters()
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_it_learns_and_the_whole_patch_does_after_the_first_step(videos, dtype, checkpointing):
    torch.manual_seed(0)
    module = pave(load_miniature(dtype), checkpointing=checkpointing).train()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=5e-3)
    sample, losses = episode(videos, "3d"), []
    for step in range(8):
        optimizer.zero_grad()
        loss = module.training_step([sample], 0)
        loss.backward()
        losses.append(loss.item())
        moving = {name for name, p in module.streams.patch.named_parameters() if p.grad.any()}
        every = {name for name, _ in module.streams.patch.named_parameters()}
        assert moving == ({"norm.weight", "norm.bias"} if step == 0 else every)
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert all(name.startswith("streams.patch.") or ".lora_" in name for name in trained)


@torch.no_grad()
def test_only_a_trained_patch_lets_the_side_channel_through(videos):
    module = pave()
    one, other = episode(videos, "3d"), episode(videos, "3d")
    other["streams"]["3d"] = videos[1]
    assert torch.equal(module.encode(one)[0].tokens, module.encode(other)[0].tokens)
    perturbed(module)
    assert not torch.equal(module.losses(one), module.losses(other))
    [patched] = (stream.tokens for stream in module.encode(one))  # and none of the side channel
    features, tokens = module.backbone.features(videos[:1])
    side, _ = module.backbone.features(255 - videos[:1])
    assert torch.equal(patched, tokens[0] + module.streams.patch(features[0], side[0]))
    one["streams"]["3d"] = videos.flatten(0, 1)  # two views at each timestamp
    one["times"]["3d"] = (0.0, 0.0, 1.0, 1.0, 2.0, 2.0)
    assert module.encode(one)[0].tokens.shape == patched.shape


@torch.no_grad()
def test_a_saved_patch_is_loaded_again(videos, tmp_path):
    module = perturbed(pave()).eval()
    folder = saved(module, tmp_path)
    assert sorted(path.name for path in (tmp_path / "patch-3d").iterdir()) == [
        "made_with.json",
        "patch.safetensors",
    ]
    again = pave(llm_adapter=folder).eval()
    again.on_test_start()
    assert torch.equal(again.losses(episode(videos, "3d")), module.losses(episode(videos, "3d")))
    assert again.adapter_metadata() == module.adapter_metadata()
    again.streams.patch.norm.bias[0] += 1
    assert again.adapter_metadata() != module.adapter_metadata(), (
        "its answers are not those of the other"
    )


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        (None, None, "cannot be read as a patch"),
        (
            "norm.bias",
            lambda bias: bias[:-1],
            r"norm.bias, which is \(159,\) there and \(160,\)",
        ),
        ("another", torch.clone, r"another, which is \(160,\) there and missing in this run"),
        ("norm.bias", lambda bias: bias / 0, "norm.bias contains values that are not finite"),
        ("norm.bias", lambda bias: bias + 1, "is not the patch that"),
    ],
    ids=["gone", "shape", "more", "nan", "other"],
)
def test_a_damaged_patch_is_named(tmp_path, name, changed, words):
    folder = saved(perturbed(pave()), tmp_path)
    file = tmp_path / "patch-3d" / "patch.safetensors"
    tensors = load_file(file)
    file.unlink()
    if name:
        save_file(tensors | {name: changed(tensors["norm.bias"]).contiguous()}, file)
    with pytest.raises(AdapterError, match=words) as error:
        pave(llm_adapter=folder)
    assert str(tmp_path / "patch-3d") in str(error.value)


@pytest.mark.parametrize("change", [{"heads": 4}, {"side": "audio"}, {"hidden": 32}])
def test_a_patch_is_refused_with_other_settings(tmp_path, change):
    folder = saved(perturbed(pave()), tmp_path)
    with pytest.raises(AdapterError, match="was tuned on"):
        pave(llm_adapter=folder, **change)


def test_neither_method_is_evaluated_as_the_other(tmp_path):
    patched = saved(pave(), tmp_path / "pave")
    for modalities in ({}, {"3d": "base"}):
        vlynx = tuning(AlignedStreams(modalities), llm_adapter=patched)
        with pytest.raises(AdapterError, match=r"was tuned on .*patch.* PAVE with its side"):
            vlynx.on_test_start()
        plain = tuning(AlignedStreams(modalities))
        folder = saved(plain, tmp_path / f"plain{len(modalities)}")
        with pytest.raises(AdapterError, match="was tuned on"):
            pave(llm_adapter=folder)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"side": "../3d"}, "model.streams.side='../3d' must name"),
        ({"side": "video"}, "model.streams.side='video' must name a stream beside"),
        ({"hidden": 10, "heads": 4}, "model.streams.hidden=10 must be a multiple of heads=4"),
        ({"side_dim": 7}, "need each other"),
        ({"side_features": "."}, "need each other"),
        ({"side_features": "/nowhere", "side_dim": 7}, "/nowhere is not a folder"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        PatchedVideo(**{"side": "3d", **settings})


def precomputed(folder, features, name="clip"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    save_file({"features": features}, folder / f"{name}.safetensors")
    return pave(side_features=str(folder), side_dim=features.shape[-1])


@torch.no_grad()
def test_precomputed_features_replace_the_frames(videos, tmp_path):
    module = perturbed(precomputed(tmp_path, torch.randn(8, 2, 5).double()))
    before = module.losses(episode(videos))
    precomputed(tmp_path, torch.randn(8, 2, 5))
    assert not torch.equal(module.losses(episode(videos)), before)
    with pytest.raises(UserError, match="clip without a benchmark"):
        module.encode({"streams": {"video": videos[0]}, "times": {"video": (0.0, 1.0, 2.0)}})


@pytest.mark.parametrize(
    "bad",
    [
        {"features": torch.zeros(2, 2, 4)},
        {"features": torch.zeros(0, 2, 5)},
        {"features": torch.full((2, 2, 5), 1e300, dtype=torch.float64)},
        {"tokens": torch.zeros(2, 2, 5)},
        None,
    ],
    ids=["channels", "empty", "infinite", "other tensor", "missing"],
)
def test_bad_features_are_one_clear_message(videos, tmp_path, bad):
    module = precomputed(tmp_path, torch.zeros(2, 2, 5))
    file = tmp_path / "clip.safetensors"
    file.unlink()
    if bad is not None:
        save_file(bad, file)
    with pytest.raises(UserError, match=rf"^{file}: .*cannot be used .*compute them again"):
        module.losses(episode(videos))


@given(st.text(st.sampled_from("./a\0"), max_size=6) | st.just("out"))
def test_clip_names_cannot_leave_the_folder(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp() / "features"
    if not root.exists():
        (root / "in" / "a").mkdir(parents=True)
        save_file({"features": torch.ones(1, 1, 5)}, root / "secret.safetensors")
        (root / "in" / "out.safetensors").symlink_to(root / "secret.safetensors")
    with pytest.raises(UserError):  # there is none inside
        read_features(root / "in", name, 5)


def test_features_may_be_in_subfolders_and_behind_internal_links(tmp_path):
    precomputed(tmp_path, torch.ones(1, 1, 5), "takes/one")
    (tmp_path / "two.safetensors").symlink_to(tmp_path / "takes" / "one.safetensors")
    assert read_features(tmp_path, "takes/one", 5).equal(read_features(tmp_path, "two", 5))


def test_only_frozen_tokens_are_kept(videos, tmp_path):
    module = perturbed(pave())
    plain = module.losses(episode(videos, "3d"))
    keys = module.streams.token_cache_keys()
    module.token_store = TokenStore(tmp_path / "store", keys)
    first = module.losses(episode(videos, "3d"))
    assert_close(first, plain, atol=0.02, rtol=0.02)
    kept = {name: each for name, (each, _) in module.token_store.load("clip").items()}
    size = sum(each.nbytes for each in kept.values())
    assert size == module.streams.kept_bytes(episode(videos, "3d"))
    from_store = episode(videos, "3d") | {"streams": {}, "tokens": kept}
    assert all(each.dtype == torch.bfloat16 for each in kept.values())
    queries, tokens = kept["video"][..., -128:].float(), kept["video"][..., :-128].float()
    patched = tokens + module.streams.patch(queries, kept["3d"].float())
    assert torch.equal(module.encode(from_store)[0].tokens, patched), (
        "not rounded as kept tokens are"
    )
    assert torch.equal(module.losses(from_store), first)
    perturbed(module)
    assert module.streams.token_cache_keys() == keys, "the patch is no part of what is kept"
    other = pave(hidden=32)
    assert TokenStore(tmp_path / "store", other.streams.token_cache_keys()).holds("clip")
    for modalities in ({}, {"3d": "base"}):
        plainly = tuning(AlignedStreams(modalities))
        assert not TokenStore(tmp_path / "store", plainly.streams.token_cache_keys()).holds("clip")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for number in range(5):
        write_scannet_scene(root / "scans" / f"scene000{number}_00", range(2))
    for split, scenes in (("train", range(4)), ("val", [4]), ("test_w_obj", [4])):
        asked = [(scene, f"{split}-{scene}", "What colour is it?") for scene in scenes]
        write_scanqa(root, split, asked)
    return root


class Stop(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            raise KeyboardInterrupt


def fit(data, run, *callbacks, **sizes):
    torch.manual_seed(0)
    streams = PatchedVideo("3d", **SMALL | sizes)
    module = InstructionTuning(
        load_miniature(), "scanqa", streams, Lora(4, 8, 0.1), learning_rate=1e-2
    )
    module_data = DepthDataModule(
        data, benchmark=ScanQA(data), objective="tuning", frames=1, frame_size=(64, 64),
        batch_size=2, num_workers=0,
    )  # fmt: skip
    trainer = quiet_trainer(run, *callbacks, RunCheckpoint(0), max_epochs=3, limit_val_batches=0)
    begun_with, _ = newest_checkpoint(run)
    try:
        trainer.fit(module, module_data, ckpt_path=begun_with, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        return None
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path):
    straight = fit(data, tmp_path / "straight")
    assert fit(data, tmp_path / "stopped", Stop()) is None
    newest, _ = newest_checkpoint(tmp_path / "stopped")
    state = read_checkpoint(newest)["state_dict"]
    assert state["streams.patch.norm.weight"].any() and state.keys() == straight.keys()
    resumed = fit(data, tmp_path / "stopped")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    with pytest.raises(AdapterError, match=r"saved with reads .*this run has"):
        fit(data, tmp_path / "stopped", heads=4)


@pytest.mark.slow
def test_the_shipped_configuration_tunes_and_evaluates(data, tmp_path, quick_meteor, vlynx):
    options = [
        "--config=experiments/backbones/miniature.yaml",
        "--config=experiments/tune/scanqa.yaml",
        "--config=experiments/tune/backbones/miniature.yaml",
        "--config=experiments/tune/toyworld/scanqa.yaml",
        "--model.streams.modalities={3d: somewhere}",
        "--config=experiments/tune/baselines/pave.yaml",
        f"--data.root={data}",
        f"--data.benchmark.init_args.annotations={data}",
        "--data.num_workers=0",
        "--trainer.logger=false",
    ]
    run = tmp_path / "run"
    assert vlynx("fit", *options, "--trainer.max_epochs=2", f"--run={run}")[0] == 0
    assert load_file(run / "adapters/patch-3d/patch.safetensors")["norm.weight"].any()
    rows = [json.loads(line) for line in (run / "predictions-val.jsonl").open()]
    assert rows[0]["settings"]["side"] == "3d"

    adapter = f"--model.llm_adapter={run / 'adapters' / 'llm-scanqa'}"
    assert vlynx("test", *options, adapter, f"--run={tmp_path / 'test'}")[0] == 0
    scores = json.loads((tmp_path / "test" / "scores-test.json").read_text())
    assert scores["scanqa/n_answered"] == 1
    made_with = json.loads((run / "adapters/llm-scanqa/made_with.json").read_text())
    assert made_with["patch"], "kept answers and tokens are told apart by it"
    code, printed = vlynx(
        "test", *options, adapter, "--data.encoding=gray", f"--run={tmp_path / 'other'}"
    )
    assert code == 1 and "encoding" in printed
