"""Stage 2: which tokens the LLM sees, what is trained, and that it learns."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from tests.conftest import MINIATURE
from vlynx_pl.adapters import AdapterError, Lora, adapter_parameters, save_adapter
from vlynx_pl.answering import score_options
from vlynx_pl.backbones import load_backbone
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.tensor_store import TokenStore
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning

LLM = {"lora": Lora(4, 8, 0.0)}


@dataclass(frozen=True)
class Asked:
    id: str
    prompt: str
    answers: tuple[str, ...]
    history: tuple[tuple[str, str], ...] = ()


def episode(videos, *streams: str, answers=("red", "box")):
    pictures = {"video": videos[0]} | dict.fromkeys(streams, 255 - videos[0])
    questions = tuple(Asked(f"q{i}", "What colour is it?", (a,)) for i, a in enumerate(answers))
    times = dict.fromkeys(pictures, (0.0, 1.0, 2.0))
    return {"key": "clip", "streams": pictures, "times": times, "questions": questions}


@pytest.fixture
def aligned(backbone, tmp_path):
    """The folder of a vision adapter that does something, and the note of its backbone."""
    torch.manual_seed(0)
    backbone.add_vision_adapter("3d", Lora(4, 8, 0.5))
    for parameter in adapter_parameters(backbone.vision_adapters, "3d").values():
        parameter.data.normal_(std=0.2)
    made_with = {"backbone": "miniature", "fingerprint": backbone.fingerprint}
    save_adapter(backbone.vision_adapters, "3d", tmp_path / "vision-3d", made_with)
    return str(tmp_path / "vision-3d")


@pytest.fixture
def fresh():
    return load_backbone(str(MINIATURE), "float32")


def test_the_llm_sees_video_then_modalities_each_by_its_own_adapter(
    backbone, aligned, fresh, videos
):
    module = InstructionTuning(fresh, "qa", AlignedStreams({"3d": aligned, "audio": "base"}), **LLM)
    video, depth, audio = module.encode(episode(videos, "audio", "3d"))
    with torch.no_grad():
        assert torch.equal(video, backbone.encode(videos[:1])[0])
        assert_close(depth, backbone.eval().encode(255 - videos[:1], "3d")[0])
        assert torch.equal(audio, backbone.encode(255 - videos[:1])[0])
    assert not torch.equal(depth, audio)


def test_only_the_llm_adapter_is_trained_and_vision_reads_without_dropout(fresh, aligned, videos):
    module = InstructionTuning(fresh, "qa", AlignedStreams({"3d": aligned}), lora=Lora(4, 8, 0.5))
    module.train()
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name and ".qa." in name for name in trained)
    first, second = (module.encode(episode(videos, "3d"))[1] for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad
    module.losses(episode(videos, "3d")).mean().backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
    module.eval()
    module.train()
    assert any(m.training for n, m in module.named_modules() if ".lora_dropout" in n)


def test_vision_adapters_may_be_trained_along_from_nothing(fresh, videos):
    streams = AlignedStreams({"3d": "base"}, train_vision=True, lora=Lora(4, 8))
    module = InstructionTuning(fresh, "qa", streams, **LLM)
    module.losses(episode(videos, "3d")).mean().backward()
    vision = adapter_parameters(fresh.vision_adapters, "3d")
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in vision.values())
    assert set(module.trained_adapters()) == {"llm-qa", "vision-3d"}


def test_vision_adapters_may_have_a_learning_rate_of_their_own(fresh):
    streams = AlignedStreams({"3d": "base"}, train_vision=True, learning_rate=1e-5)
    module = InstructionTuning(fresh, "qa", streams, **LLM)
    module._trainer = SimpleNamespace(estimated_stepping_batches=10)
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    vision = adapter_parameters(fresh.vision_adapters, "3d").values()
    llm = adapter_parameters(fresh.llm_adapters, "qa").values()
    assert {rates.pop(id(p)) for p in vision} == {1e-5}
    assert {rates.pop(id(p)) for p in llm} == {module.learning_rate} and not rates


@pytest.mark.parametrize("modalities", [{}, {"3d": "base"}])
def test_a_learning_rate_for_nothing_is_refused(modalities):
    with pytest.raises(UserError, match=r"model.streams.learning_rate=1e-05 trains nothing"):
        AlignedStreams(modalities, train_vision=not modalities, learning_rate=1e-5)


def test_without_modalities_only_the_video_is_read(fresh, videos):
    module = InstructionTuning(fresh, "qa", **LLM)
    assert len(module.encode(episode(videos, "3d"))) == 1


def test_tokens_are_averaged_over_a_timestamp_and_over_a_pooled_frame(fresh, videos):
    streams = AlignedStreams({"3d": "base", "audio": "base"}, pooled=["audio"])
    module = InstructionTuning(fresh, "qa", streams, **LLM)
    asked = episode(videos, "3d", "audio")
    asked["streams"]["3d"] = videos.flatten(0, 1)  # two frames for each timestamp
    video, depth, audio = module.encode(asked)
    frames = fresh.encode(videos.flatten(0, 1)[None])[0]
    assert_close(depth, (frames[::2] + frames[1::2]) / 2)
    assert_close(audio, fresh.encode(asked["streams"]["audio"][None])[0].mean(1, keepdim=True))
    assert [len(tokens) for tokens in (video, depth, audio)] == [3, 3, 3]
    kept = sum(tokens.bfloat16().nbytes for tokens in (video, depth, audio))
    assert module.streams.kept_bytes(asked) == kept


def test_timestamps_of_unlike_numbers_of_frames_are_refused(fresh, videos):
    module = InstructionTuning(fresh, "qa", AlignedStreams({"3d": "base"}), **LLM)
    asked = episode(videos, "3d")
    asked["streams"]["3d"] = videos.flatten(0, 1)[:5]
    with pytest.raises(UserError, match="stream '3d' has 5 frames for 3 timestamps"):
        module.losses(asked)


def test_it_learns_to_answer(fresh, videos):
    torch.manual_seed(0)
    module = InstructionTuning(fresh, "qa", AlignedStreams({"3d": "base"}), **LLM)
    [said] = module.answers(episode(videos, "3d", answers=("red",)))
    target = "yes" if said != "yes" else "no"
    sample = episode(videos, "3d", answers=(target,))
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        module.training_step([sample], 0).backward()
        optimizer.step()
    assert module.answers(sample) == [target]


def test_a_perturbed_vision_adapter_changes_what_the_llm_sees(fresh, aligned, videos):
    module = InstructionTuning(fresh, "qa", AlignedStreams({"3d": aligned}), **LLM)
    before = module.losses(episode(videos, "3d"))
    for parameter in adapter_parameters(fresh.vision_adapters, "3d").values():
        parameter.data += 0.1
    assert (module.losses(episode(videos, "3d")) - before).abs().max() > 1e-3


def test_many_questions_become_several_sequences_of_the_same_losses(fresh, videos):
    module = InstructionTuning(fresh, "qa", **LLM)
    sample = episode(videos, answers=("red", "blue", "green", "box"))
    whole = module.losses(sample)
    module.question_budget = 40
    assert_close(module.losses(sample), whole, atol=1e-5, rtol=1e-5)
    module.question_budget = 5
    with pytest.raises(UserError, match=r"'q0' has \d+ tokens, more than question_budget=5"):
        module.losses(sample)


def test_what_cannot_be_learnt_or_asked_is_known_before(fresh):
    module = InstructionTuning(fresh, "qa", question_budget=60, **LLM)

    def of(prompt="What?", answers=("red",), history=()):
        question = Asked("q7", prompt, answers, history)
        return module.unfit(question, learnt=True), module.unfit(question, learnt=False)

    assert of() == of(history=(("Is it?", "yes"),)) == (None, None)
    for token in ("<image>", "<|im_end|>"):
        holds = f"question 'q7' holds {token!r}, which structures the prompt"
        assert of(prompt=f"What is the {token}?") == (holds, holds)
        assert of(history=(("Is it?", token),)) == (holds, holds)
        assert of(answers=(token,)) == (holds, None)
    assert of(answers=(" ",)) == of(answers=()) == ("question 'q7' has no answer to 'What?'", None)
    long, asked = of(prompt="What is it? " * 30)
    assert re.fullmatch(r"question 'q7' has \d+ tokens, more than model.question_budget=60", long)
    assert asked is None
    assert of(prompt="What is it? " * 3) == (None, None)


def test_an_adapter_of_another_backbone_is_refused(fresh, aligned):
    with torch.no_grad():
        fresh.newline.add_(1)
    for wrong in ({"streams": AlignedStreams({"3d": aligned})}, {"llm_adapter": aligned}):
        with pytest.raises(AdapterError, match=r"was trained on miniature .*train it on this"):
            InstructionTuning(fresh, "qa", **wrong, **LLM)
        fresh = load_backbone(str(MINIATURE), "float32")
        with torch.no_grad():
            fresh.newline.add_(1)


def test_a_folder_that_is_no_adapter_is_named(fresh, tmp_path):
    with pytest.raises(AdapterError, match=rf"{tmp_path} is not a PEFT adapter"):
        InstructionTuning(fresh, "qa", AlignedStreams({"3d": str(tmp_path)}), **LLM)


def test_a_missing_stream_names_those_that_are_there(fresh, videos):
    module = InstructionTuning(fresh, "qa", AlignedStreams({"audio": "base"}), **LLM)
    with pytest.raises(UserError, match="no stream 'audio', only video, 3d"):
        module.losses(episode(videos, "3d"))


def test_an_llm_adapter_can_be_continued(fresh, videos, tmp_path):
    module = InstructionTuning(fresh, "qa", **LLM)
    for parameter in adapter_parameters(fresh.llm_adapters, "qa").values():
        parameter.data.normal_(std=0.1)
    expected = module.losses(episode(videos))
    save_adapter(fresh.llm_adapters, "qa", tmp_path / "llm-qa")
    other = load_backbone(str(MINIATURE), "float32")
    again = InstructionTuning(other, "qa", llm_adapter=str(tmp_path / "llm-qa"), **LLM)
    assert_close(again.losses(episode(videos)), expected)


def test_kept_tokens_are_learnt_from_as_when_they_were_new(fresh, aligned, videos, tmp_path):
    module = InstructionTuning(fresh, "qa", AlignedStreams({"3d": aligned}), **LLM)
    plain = module.encode(episode(videos, "3d"))
    module.token_store = TokenStore(tmp_path / "store", module.streams.token_cache_keys())
    first = module.losses(episode(videos, "3d"))
    kept = module.token_store.load("clip")
    tokens = {name: each for name, (each, _) in kept.items()}
    assert_close([tokens[name].float() for name in ("video", "3d")], plain, atol=0, rtol=2**-8)
    again = episode(videos, "3d") | {"streams": {}, "tokens": tokens}
    assert torch.equal(module.losses(again), first)
    assert module.answers(again) == module.answers(episode(videos, "3d"))


@pytest.mark.parametrize("change", ["backbone", "adapter", "scale", "pooled", "none"])
def test_tokens_of_another_model_are_not_found(fresh, aligned, videos, tmp_path, change):
    def store(module):
        return TokenStore(tmp_path / "store", module.streams.token_cache_keys())

    module = InstructionTuning(fresh, "qa", AlignedStreams({"3d": aligned}), **LLM)
    module.token_store = store(module)
    module.encode(episode(videos, "3d"))
    assert module.token_store.holds("clip")
    other = load_backbone(str(MINIATURE), "float32")
    pooled = ["3d"] if change == "pooled" else []
    if change == "backbone":
        with torch.no_grad():
            other.newline.add_(1)
        note = json.loads((Path(aligned) / "made_with.json").read_text())
        note["fingerprint"] = other.fingerprint
        (Path(aligned) / "made_with.json").write_text(json.dumps(note))
    if change == "scale":
        config = json.loads((Path(aligned) / "adapter_config.json").read_text())
        config["lora_alpha"] *= 2
        (Path(aligned) / "adapter_config.json").write_text(json.dumps(config))
    module = InstructionTuning(other, "qa", AlignedStreams({"3d": aligned}, pooled=pooled), **LLM)
    if change == "adapter":
        next(iter(adapter_parameters(other.vision_adapters, "3d").values())).data[0, 0] += 0.1
    assert store(module).holds("clip") == (change == "none")


def test_tokens_that_are_trained_cannot_be_kept(fresh):
    module = InstructionTuning(
        fresh, "qa", AlignedStreams({"3d": "base"}, train_vision=True), **LLM
    )
    with pytest.raises(UserError, match=r"train_vision changes the tokens .*KeepTokens"):
        _ = module.streams.token_cache_keys()


def test_checkpointing_keeps_less_and_changes_no_gradient(videos):
    def kept_and_gradients(checkpointing):
        backbone = load_backbone(str(MINIATURE), "float32")
        module = InstructionTuning(backbone, "qa", **LLM, checkpointing=checkpointing)
        torch.manual_seed(0)
        for parameter in adapter_parameters(backbone.llm_adapters, "qa").values():
            parameter.data.normal_(std=0.05)
        # Another adapter, which is the one at work whenever none is selected.
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


def test_the_likeliest_of_some_letters_can_be_the_answer(fresh, videos):
    module = InstructionTuning(fresh, "qa", **LLM, choices="ABCD")
    asked = episode(videos, answers=("A", "B", "C"))
    said = module.answers(asked)
    assert len(said) == 3 and set(said) <= set("ABCD")
    streams = module.encode(asked)
    scores = score_options(fresh, streams, asked["questions"], list("ABCD"), llm_adapter="qa")
    assert said == ["ABCD"[best] for best in scores.argmax(-1).tolist()]


@pytest.mark.parametrize("autocast", [True, False])
def test_a_bfloat16_backbone_learns_nearly_the_same(fresh, videos, autocast):
    torch.manual_seed(0)
    whole = InstructionTuning(fresh, "qa", AlignedStreams({"3d": "base"}), **LLM)
    wanted = whole.losses(episode(videos, "3d"))
    half = load_backbone(str(MINIATURE), "bfloat16")
    module = InstructionTuning(
        half, "qa", AlignedStreams({"3d": "base"}), **LLM, checkpointing=True
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = module.losses(episode(videos, "3d"))
    losses.mean().backward()
    assert losses.dtype == torch.float32
    assert_close(losses, wanted, rtol=0.05, atol=0.05)
    trained = [p for p in module.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 and p.grad is not None for p in trained)
    assert len(module.answers(episode(videos, "3d"))) == 2


def saved(module, folder):
    """Everything that a module trains, as a run leaves it."""
    for adapters, adapter in module.trained_adapters().values():
        for parameter in adapter_parameters(adapters, adapter).values():
            parameter.data.normal_(std=0.1)
    for name, (adapters, adapter) in module.trained_adapters().items():
        made_with = {"fingerprint": module.backbone.fingerprint, **module.adapter_metadata()}
        save_adapter(adapters, adapter, folder / name, made_with)
    return str(folder / "llm-qa")


def test_a_loaded_adapter_keeps_its_own_rank_and_scale(fresh, videos, tmp_path):
    first = InstructionTuning(fresh, "qa", lora=Lora(2, 32, 0.0))
    folder = saved(first, tmp_path)
    again = InstructionTuning(
        load_backbone(str(MINIATURE), "float32"), "qa", **LLM, llm_adapter=folder
    )
    assert_close(again.losses(episode(videos)), first.losses(episode(videos)))


def test_vision_adapters_that_were_trained_along_are_loaded_with_it(fresh, videos, tmp_path):
    def streams():
        return AlignedStreams({"3d": "base"}, train_vision=True, lora=Lora(4, 128))

    first = InstructionTuning(fresh, "qa", streams(), **LLM)
    folder = saved(first, tmp_path)
    backbone = load_backbone(str(MINIATURE), "float32")
    again = InstructionTuning(backbone, "qa", streams(), **LLM, llm_adapter=folder).eval()
    wanted = first.eval().losses(episode(videos, "3d"))
    assert_close(again.losses(episode(videos, "3d")), wanted)
    again.on_test_start()


def test_an_adapter_is_examined_with_the_senses_that_it_was_tuned_on(fresh, aligned, tmp_path):
    tuned = InstructionTuning(fresh, "qa", AlignedStreams({"3d": aligned}), **LLM)
    folder = saved(tuned, tmp_path / "run")
    for modalities, fits in (({"3d": aligned}, True), ({"3d": "base"}, False), ({}, False)):
        backbone = load_backbone(str(MINIATURE), "float32")
        streams = AlignedStreams(modalities)
        module = InstructionTuning(backbone, "qa", streams, **LLM, llm_adapter=folder)
        if fits:
            module.on_test_start()
        else:
            with pytest.raises(AdapterError, match=r"was tuned on .*3d.*give the model.streams"):
                module.on_test_start()


def test_an_untuned_model_is_not_examined_in_silence(fresh):
    with pytest.warns(UserWarning, match=r"llm_adapter is null: the untuned LLM answers"):
        InstructionTuning(fresh, "qa", **LLM).on_test_start()
