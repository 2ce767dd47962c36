"""The shipped miniature is an ordinary Hugging Face folder, and answers about toy rooms."""

import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

from experiments.miniature.card import Answerer
from experiments.miniature.packing import Packer
from experiments.toyworld.questions import ONE_OBJECT, questions
from experiments.toyworld.render import render_scene
from experiments.toyworld.scene import sample_scene
from tests.conftest import MINIATURE

LOAD = """
import sys
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration
LlavaOnevisionForConditionalGeneration.from_pretrained(sys.argv[1], local_files_only=True)
AutoProcessor.from_pretrained(sys.argv[1], local_files_only=True)
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer(MINIATURE)


def test_it_loads_without_this_package(tmp_path):
    command = [sys.executable, "-I", "-c", LOAD, str(MINIATURE)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"vlynx_pl", "datamodules", "experiments"} & set(run.stdout.split())


def test_it_is_small():
    assert (MINIATURE / "model.safetensors").stat().st_size <= 10_000_000
    assert not list(MINIATURE.glob("*.bin"))


@pytest.mark.parametrize("frames", [1, 4, 7])
def test_a_video_has_sixteen_tokens_per_frame_and_a_newline(frames):
    processor = AutoProcessor.from_pretrained(MINIATURE)
    video = np.zeros((frames, 64, 64, 3), np.uint8)
    ids = processor(text="<video>", videos=[video], return_tensors="pt")["input_ids"]
    video_token = processor.tokenizer.convert_tokens_to_ids("<video>")
    assert (ids == video_token).sum() == 16 * frames + 1


def test_it_answers_what_it_sees_in_new_rooms(answerer):
    """Far better than guessing on every kind; the card has the exact figures."""
    right: dict[str, list[bool]] = defaultdict(list)
    for index in range(24):
        scene = sample_scene(77, index)
        video = render_scene(scene).colour
        first = {q.kind: q for q in reversed(questions(scene))}
        for kind in ONE_OBJECT:
            if kind in first:
                said = answerer.answer(video, first[kind].text)
                right[kind].append(said == first[kind].answer)
    for kind in ONE_OBJECT:
        assert np.mean(right[kind]) >= 0.8, kind


def test_questions_in_one_sequence_are_answered_independently(answerer):
    """Packing gives the same logits as one question per sequence through the processor."""
    model: LlavaOnevisionForConditionalGeneration = answerer.model
    tokenizer = answerer.processor.tokenizer
    scene = sample_scene(77, 3)
    asked = questions(scene)[:6]
    video = render_scene(scene).colour
    places = torch.from_numpy(scene.places()).float()
    things = torch.zeros(len(scene.objects), 2, dtype=torch.long)
    packed = Packer(tokenizer, 16).pack([asked], [places], [things], len(video))
    pixels = torch.from_numpy(video).permute(0, 3, 1, 2)[None] / 127.5 - 1
    with torch.inference_mode():
        tokens = model.model.get_video_features(pixels.contiguous(), return_dict=True).pooler_output
        embeddings = model.get_input_embeddings()(packed.ids)
        is_video = packed.ids == tokenizer.convert_tokens_to_ids("<video>")
        together = model.model.language_model(
            inputs_embeds=embeddings.masked_scatter(is_video[..., None], tokens),
            attention_mask=packed.mask,
            position_ids=packed.positions,
        ).last_hidden_state[0]
        for (_, index), question in zip(packed.answers[packed.first], asked, strict=True):
            message = [{"role": "user", "content": f"<video>\n{question.text}"}]
            prompt = tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True
            )
            inputs = answerer.processor(text=prompt, videos=[video], return_tensors="pt")
            alone = model(**inputs).logits[0, -1]
            assert_close(model.lm_head(together[index]), alone, atol=1e-4, rtol=1e-4)
