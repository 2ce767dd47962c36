"""The shipped miniatures are ordinary Hugging Face folders, and answer about toy rooms."""

import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoProcessor

from experiments.miniature.card import answers
from experiments.miniature.packing import Packer
from experiments.miniature.train import read_together
from experiments.toyworld.questions import ONE_OBJECT, questions
from experiments.toyworld.render import render_scene
from experiments.toyworld.scene import sample_scene
from tests.conftest import MINIATURE
from vlynx_pl.answering import SharedCache
from vlynx_pl.backbones import load_backbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.prefix_sharing import question_branch
from vlynx_pl.questions import Question

LOAD = """
import sys
from transformers import AutoModelForImageTextToText, AutoProcessor
AutoModelForImageTextToText.from_pretrained(sys.argv[1], local_files_only=True)
AutoProcessor.from_pretrained(sys.argv[1], local_files_only=True)
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


FOLDERS = [MINIATURE, MINIATURE.with_name("miniature_qwen3")]


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


@pytest.fixture(scope="module")
def miniature(folder):
    return load_backbone(str(folder), "float32", side=64)


def frames_of(scene):
    """(T, 3, H, W) uint8."""
    return torch.from_numpy(render_scene(scene).colour).permute(0, 3, 1, 2)


def test_it_loads_without_this_package(folder, tmp_path):
    command = [sys.executable, "-I", "-c", LOAD, str(folder)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"vlynx_pl", "datamodules", "experiments"} & set(run.stdout.split())


def test_it_is_small(folder):
    assert (folder / "model.safetensors").stat().st_size <= 10_000_000
    assert not list(folder.glob("*.bin"))


@pytest.mark.parametrize("frames", [1, 4, 7])
def test_a_video_has_sixteen_tokens_per_frame_and_a_newline(frames):
    processor = AutoProcessor.from_pretrained(MINIATURE)
    video = np.zeros((frames, 64, 64, 3), np.uint8)
    ids = processor(text="<video>", videos=[video], return_tensors="pt")["input_ids"]
    video_token = processor.tokenizer.convert_tokens_to_ids("<video>")
    assert (ids == video_token).sum() == 16 * frames + 1


def test_it_answers_what_it_sees_in_new_rooms(miniature):
    """Far better than guessing on every kind; the card has the exact figures."""
    right: dict[str, list[bool]] = defaultdict(list)
    for index in range(24):
        scene = sample_scene(77, index)
        first = {q.kind: q for q in reversed(questions(scene)) if q.kind in ONE_OBJECT}
        said = answers(miniature, frames_of(scene), [q.text for q in first.values()])
        for (kind, question), text in zip(first.items(), said, strict=True):
            right[kind].append(text == question.answer)
    for kind in ONE_OBJECT:
        assert np.mean(right[kind]) >= 0.8, kind


@torch.inference_mode()
def test_several_videos_at_once_are_read_as_one_by_one(miniature):
    """What training reads equals what the method reads."""
    scenes = [sample_scene(77, index) for index in (3, 5)]
    frames = torch.stack([frames_of(scene) for scene in scenes])
    tokens, times = miniature.encode(frames), [0.0, 1.0, 2.0, 3.0]
    prefix = miniature.prompt([Stream(tokens[0], times)])
    asked = [questions(scene)[:4] for scene in scenes]
    packed = Packer(miniature.tokenizer, miniature.chat).pack(
        prefix,
        asked,
        [torch.from_numpy(scene.places()).float() for scene in scenes],
        [torch.zeros(len(scene.objects), 2, dtype=torch.long) for scene in scenes],
    )
    together = read_together(miniature, prefix, tokens, packed)[-1]
    firsts = iter(packed.answers[packed.first].tolist())
    for video, of_video in zip(tokens, asked, strict=True):
        cache = SharedCache(miniature, [Stream(video, times)])
        reads = miniature.tokenizer, miniature.chat
        ids = [
            question_branch(*reads, Question("q", one.text, ()), learnt=False).ids
            for one in of_video
        ]
        alone = cache.feed(dict(enumerate(ids, 1)))
        for logits in alone:
            row, index = next(firsts)
            assert_close(miniature.logits(together[row, index]), logits, atol=1e-4, rtol=1e-4)
