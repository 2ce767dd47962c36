"""Stage 2: which tokens the LLM sees, what is trained, and that it learns."""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from tests.vlynx_pl.conftest import episode, load_miniature, perturbed, randomise, saved, tuning
from vlynx_pl.adapters import AdapterError, Lora, adapter_parameters, save_adapter
from vlynx_pl.answering import score_options
from vlynx_pl.baselines.pave_streams import PatchedVideo
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.tensor_store import TokenStore
from vlynx_pl.questions import Question
from vlynx_pl.streams import AlignedStreams


@pytest.fixture
def aligned(backbone, tmp_path):
    """Folder of a vision adapter that is not zero."""
    torch.manual_seed(0)
    backbone.add_vision_adapter("3d", Lora(4, 8, 0.5))
    randomise(backbone.vision_adapters, "3d", 0.2)
    made_with = {"backbone": "miniature", "fingerprint": backbone.fingerprint}
    save_adapter(backbone.vision_adapters, "3d", tmp_path / "vision-3d", made_with)
    return str(tmp_path / "vision-3d")


def test_the_llm_sees_video_then_modalities_each_by_its_own_adapter(
    backbone, aligned, fresh, videos
):
    module = tuning(AlignedStreams({"3d": aligned, "audio": "base"}), fresh)
    video, depth, audio = (
        stream.tokens for stream in module.encode(episode(videos, "audio", "3d"))
    )
    with torch.no_grad():
        assert torch.equal(video, backbone.encode(videos[:1])[0])
        assert_close(depth, backbone.eval().encode(255 - videos[:1], "3d")[0])
        assert torch.equal(audio, backbone.encode(255 - videos[:1])[0])
    assert not torch.equal(depth, audio)


def test_only_the_llm_adapter_is_trained_and_vision_reads_without_dropout(fresh, aligned, videos):
    module = tuning(AlignedStreams({"3d": aligned}), fresh, lora=Lora(4, 8, 0.5)).train()
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name and ".qa." in name for name in trained)
    first, second = (module.encode(episode(videos, "3d"))[1].tokens for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad
    module.losses(episode(videos, "3d")).mean().backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
    module.eval()
    module.train()
    assert any(m.training for n, m in module.named_modules() if ".lora_dropout" in n)


def test_tokens_are_averaged_over_a_timestamp_and_over_a_pooled_frame(fresh, videos):
    pooled = {"keep": {"audio": 1}, "reduce": {"audio": "pool"}}
    streams = AlignedStreams({"3d": "base", "audio": "base"}, **pooled)
    module = tuning(streams, fresh)
    asked = episode(videos, "3d", "audio")
    asked["streams"]["3d"] = videos.flatten(0, 1)  # two frames for each timestamp
    video, depth, audio = (stream.tokens for stream in module.encode(asked))
    frames = fresh.encode(videos.flatten(0, 1)[None])[0]
    assert_close(depth, (frames[::2] + frames[1::2]) / 2)
    assert_close(audio, fresh.encode(asked["streams"]["audio"][None])[0].mean(1))
    assert [len(tokens) for tokens in (video, depth, audio)] == [3, 3, 3]
    kept = sum(tokens.bfloat16().nbytes for tokens in (video, depth, audio))
    places = 3 * fresh.tokens_per_frame
    assert module.streams.kept_bytes(asked) == kept + places


@pytest.mark.parametrize("named", [{}, {"3d": "base"}])
def test_a_learning_rate_for_nothing_is_refused(named):
    with pytest.raises(UserError, match=r"model.streams.learning_rate=1e-05 trains nothing"):
        AlignedStreams(named, train_vision=not named, learning_rate=1e-5)


@pytest.mark.parametrize(
    "streams",
    [
        AlignedStreams({"3d": "base"}, train_vision=True, learning_rate=1e-3),
        PatchedVideo("3d", hidden=16, heads=2, learning_rate=1e-3),
    ],
    ids=["vision adapters", "patch"],
)
def test_what_reads_streams_may_have_its_own_learning_rate(fresh, streams):
    module = tuning(streams, fresh)
    module._trainer = SimpleNamespace(estimated_stepping_batches=10)
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    llm = adapter_parameters(fresh.llm_adapters, "qa").values()
    assert {rates.pop(id(p)) for p in llm} == {module.learning_rate}
    assert rates.keys() == {id(p) for p in streams.trained().parameters() if p.requires_grad}
    assert set(rates.values()) == {1e-3}


@pytest.mark.parametrize(
    ("stream", "frames", "message"),
    [
        ("audio", 3, "no stream '3d', only video, audio"),
        ("3d", 5, "stream '3d' has 5 frames for 3 timestamps"),
    ],
)
def test_streams_that_do_not_fit_are_named(fresh, videos, stream, frames, message):
    asked = episode(videos, stream)
    asked["streams"][stream] = videos.flatten(0, 1)[:frames]
    with pytest.raises(UserError, match=message):
        tuning(AlignedStreams({"3d": "base"}), fresh).losses(asked)


def test_it_learns_to_answer(fresh, videos):
    torch.manual_seed(0)
    module = tuning(AlignedStreams({"3d": "base"}), fresh)
    [said] = module.answers(episode(videos, "3d", answers=("red",)))
    target = "yes" if said != "yes" else "no"
    sample = episode(videos, "3d", answers=(target,))
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        module.training_step([sample], 0).backward()
        optimizer.step()
    assert module.answers(sample) == [target]


def test_many_questions_become_several_sequences_of_the_same_losses(fresh, videos):
    module = tuning(backbone=fresh)
    sample = episode(videos, answers=("red", "blue", "green", "box"))
    whole = module.losses(sample)
    module.question_budget = 40
    assert_close(module.losses(sample), whole, atol=1e-5, rtol=1e-5)


def test_unfit_questions_are_found_before_they_are_used(fresh):
    module = tuning(backbone=fresh, question_budget=60)

    def of(prompt="What?", answers=("red",), history=()):
        question = Question("q7", prompt, answers, history)
        return module.unfit(question, learnt=True), module.unfit(question, learnt=False)

    assert of() == of(history=(("Is it?", "yes"),)) == (None, None)
    for token in ("<image>", "<|im_end|>"):
        contains = f"question 'q7' contains {token!r}, which structures the prompt"
        assert of(prompt=f"What is the {token}?") == (contains, contains)
        assert of(history=(("Is it?", token),)) == (contains, contains)
        assert of(answers=(token,)) == (contains, None)
    assert of(answers=(" ",)) == of(answers=()) == ("question 'q7' has no answer to 'What?'", None)
    long, asked = of(prompt="What is it? " * 30)
    assert re.fullmatch(r"question 'q7' has \d+ tokens, more than model.question_budget=60", long)
    assert asked is None
    assert of(prompt="What is it? " * 3) == (None, None)


@pytest.mark.parametrize("where", ["streams", "llm_adapter"])
def test_an_adapter_of_another_backbone_is_refused(fresh, aligned, where):
    with torch.no_grad():
        fresh.newline.add_(1)
    wrong = {"streams": AlignedStreams({"3d": aligned}), "llm_adapter": aligned}[where]
    with pytest.raises(AdapterError, match=r"was trained on miniature .*train it on this"):
        tuning(backbone=fresh, **{where: wrong})


def test_kept_tokens_give_the_losses_of_new_ones(fresh, aligned, videos, tmp_path):
    module = tuning(AlignedStreams({"3d": aligned}), fresh)
    plain = [stream.tokens for stream in module.encode(episode(videos, "3d"))]
    module.token_store = TokenStore(tmp_path / "store", module.streams.token_cache_keys())
    first = module.losses(episode(videos, "3d"))
    kept = module.token_store.load("clip")
    tokens = {name: each for name, (each, _) in kept.items()}
    assert_close([tokens[name].float() for name in ("video", "3d")], plain, atol=0, rtol=2**-8)
    again = episode(videos, "3d") | {"streams": {}, "tokens": tokens}
    assert torch.equal(module.losses(again), first)
    assert module.answers(again) == module.answers(episode(videos, "3d"))


def rewrite(path, **settings):
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("change", ["backbone", "adapter", "scale", "pooled", "none"])
def test_tokens_of_another_model_are_not_found(fresh, aligned, videos, tmp_path, change):
    def store(module):
        return TokenStore(tmp_path / "store", module.streams.token_cache_keys())

    module = tuning(AlignedStreams({"3d": aligned}), fresh)
    module.token_store = store(module)
    module.encode(episode(videos, "3d"))
    assert module.token_store.holds("clip")
    other = load_miniature()
    pooled = {"keep": {"3d": 1}, "reduce": {"3d": "pool"}} if change == "pooled" else {}
    if change == "backbone":
        with torch.no_grad():
            other.newline.add_(1)
        rewrite(Path(aligned) / "made_with.json", fingerprint=other.fingerprint)
    if change == "scale":
        rewrite(Path(aligned) / "adapter_config.json", lora_alpha=16)
    module = tuning(AlignedStreams({"3d": aligned}, **pooled), other)
    if change == "adapter":
        next(iter(adapter_parameters(other.vision_adapters, "3d").values())).data[0, 0] += 0.1
    assert store(module).holds("clip") == (change == "none")


def test_trained_tokens_cannot_be_kept(fresh):
    module = tuning(AlignedStreams({"3d": "base"}, train_vision=True), fresh)
    with pytest.raises(UserError, match=r"train_vision changes the tokens .*KeepTokens"):
        _ = module.streams.token_cache_keys()


def test_checkpointing_keeps_less_and_changes_no_gradient(videos):
    def kept_and_gradients(checkpointing):
        backbone = load_miniature()
        module = tuning(backbone=backbone, checkpointing=checkpointing)
        randomise(backbone.llm_adapters, "qa", 0.05)
        # Another adapter, which is active whenever none is selected.
        backbone.add_llm_adapter("other", Lora(2, 4))
        module.train()
        kept = []

        def keep(tensor):
            kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = module.losses(episode(videos)).mean()
        loss.backward()
        learnt = adapter_parameters(backbone.llm_adapters, "qa")
        assert module.answers(episode(videos)) == module.eval().answers(episode(videos))
        return sum(kept), {name: p.grad for name, p in learnt.items()}

    plain, wanted = kept_and_gradients(False)
    less, found = kept_and_gradients(True)
    assert less < plain / 3
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0
        assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("share", "recomputed"), [(2.2, False), (1.8, True)])
def test_checkpointing_follows_from_the_free_memory(
    share, recomputed, fresh, videos, monkeypatch, capsys
):
    module = tuning(backbone=fresh)
    plugin = SimpleNamespace(forward_context=nullcontext)
    module._trainer = SimpleNamespace(precision_plugin=plugin, current_epoch=0, global_rank=0)
    kept = module.kept_bytes(lambda: module.losses(episode(videos)))
    states = 12 * sum(p.numel() for p in module.parameters() if p.requires_grad)
    free = int(states + share * kept)
    monkeypatch.setattr("vlynx_pl.tuning.free_bytes", lambda device: free)
    module.on_train_batch_start([episode(videos)], 0)
    assert ("model.checkpointing is true" in capsys.readouterr().err) == recomputed
    now = module.kept_bytes(lambda: module.losses(episode(videos)))
    assert (now < kept / 2) == recomputed


def test_the_most_likely_letter_can_be_the_answer(fresh, videos):
    module = tuning(backbone=fresh, choices="ABCD")
    asked = episode(videos, answers=("A", "B", "C"))
    said = module.answers(asked)
    assert len(said) == 3 and set(said) <= set("ABCD")
    streams = module.encode(asked)
    scores = score_options(fresh, streams, asked["questions"], list("ABCD"), llm_adapter="qa")
    assert said == ["ABCD"[best] for best in scores.argmax(-1).tolist()]


@pytest.mark.parametrize("autocast", [True, False])
def test_a_bfloat16_backbone_learns_nearly_the_same(fresh, videos, autocast):
    torch.manual_seed(0)
    whole = tuning(AlignedStreams({"3d": "base"}), fresh)
    wanted = whole.losses(episode(videos, "3d"))
    half = load_miniature("bfloat16")
    module = tuning(AlignedStreams({"3d": "base"}), half, checkpointing=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = module.losses(episode(videos, "3d"))
    losses.mean().backward()
    assert losses.dtype == torch.float32
    assert_close(losses, wanted, rtol=0.05, atol=0.05)
    trained = [p for p in module.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 and p.grad is not None for p in trained)
    assert len(module.answers(episode(videos, "3d"))) == 2


def test_loaded_adapters_keep_their_own_rank_and_scale(fresh, videos, tmp_path):
    def streams():
        return AlignedStreams({"3d": "base"}, train_vision=True, lora=Lora(4, 128))

    first = perturbed(tuning(streams(), fresh, lora=Lora(2, 32, 0.0)))
    again = tuning(streams(), llm_adapter=saved(first, tmp_path)).eval()
    wanted = first.eval().losses(episode(videos, "3d"))
    assert_close(again.losses(episode(videos, "3d")), wanted)
    again.on_test_start()


def test_an_adapter_is_evaluated_on_the_modalities_that_it_was_tuned_on(fresh, aligned, tmp_path):
    tuned = tuning(AlignedStreams({"3d": aligned}), fresh)
    folder = saved(tuned, tmp_path / "run")
    for modalities, fits in (({"3d": aligned}, True), ({"3d": "base"}, False), ({}, False)):
        module = tuning(AlignedStreams(modalities), llm_adapter=folder)
        if fits:
            module.on_test_start()
        else:
            with pytest.raises(AdapterError, match=r"was tuned on .*3d.*give the model.streams"):
                module.on_test_start()


def test_evaluating_an_untuned_model_warns(fresh):
    with pytest.warns(UserWarning, match=r"llm_adapter is null: the untuned LLM answers"):
        tuning(backbone=fresh).on_test_start()
