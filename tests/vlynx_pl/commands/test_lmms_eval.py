"""The lmms-eval plug-in. Without lmms-eval, a stand-in for its base class is used."""

import importlib
import json
import re
import shutil
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datamodules import DepthDataModule
from datamodules.benchmarks import ScanQA
from experiments.toyworld.video_files import write_video
from tests.conftest import MINIATURE, REPOSITORY
from tests.datamodules.conftest import write_scannet_scenes, write_scanqa
from tests.vlynx_pl.conftest import config_of, randomise
from vlynx_pl.adapters import Lora, save_adapter
from vlynx_pl.backbones import load_backbone
from vlynx_pl.commands import lmms_tasks
from vlynx_pl.commands.asking import open_run
from vlynx_pl.io.errors import UserError
from vlynx_pl.questions import Question
from vlynx_pl.tuning import InstructionTuning

# As lmms-eval has them for Video-MME, MVBench and MLVU.
USUAL = {
    "max_new_tokens": 16,
    "temperature": 0.0,
    "top_p": 1.0,
    "num_beams": 1,
    "do_sample": False,
    "until": ["\n\n"],
}


class StandIn:
    """As much of ``lmms_eval.api.model.lmms`` as the plug-in leans on."""

    rank = 0

    def __init__(self):
        self.task_dict = {}


@pytest.fixture(scope="module")
def plugin():
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("lmms_eval") is None:
            for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
                patch.setitem(sys.modules, name, ModuleType(name))
            sys.modules["lmms_eval.api.model"].lmms = StandIn
        yield importlib.import_module("vlynx_pl.commands.lmms_eval")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two videos, and the folder of a run that was tuned to talk at length."""
    root = tmp_path_factory.mktemp("world")
    for seed, name in enumerate(("one", "two")):
        noise = np.random.default_rng(seed).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
        write_video(root / f"{name}.mp4", noise, 8)
    backbone = load_backbone(str(MINIATURE), "float32")
    backbone.add_llm_adapter("task", Lora(8, 16))
    randomise(backbone.llm_adapters, "task", 0.14)
    save_adapter(backbone.llm_adapters, "task", root / "run" / "adapters" / "llm-task")
    config = config_of("HighFrameRateDataModule", "highfps")
    config["model"]["init_args"] |= {"task": "task", "max_new_tokens": 5}
    (root / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return root


@pytest.fixture(scope="module")
def model(plugin, world):
    return plugin.VlynxModel(run=str(world / "run"), device="cpu")


def turn(role, text, *shown):
    """A message of a chat; what is shown is (type, url)."""
    media = [{"type": kind, "url": url} for kind, url in shown]
    return {"role": role, "content": [*media, {"type": "text", "text": text}]}


def requests_for(model, *documents, task="toy", chat=None, **settings):
    """Requests as lmms-eval makes them, of documents (prompt, video)."""
    rows = [{"prompt": prompt, "video": str(video)} for prompt, video in documents]
    model.task_dict = {task: {"test": rows}}
    talk = chat or (lambda row: [turn("user", row["prompt"], ("video", row["video"]))])
    kwargs = USUAL | settings
    return [
        SimpleNamespace(args=(prompt, talk, kwargs, n, task, "test"), task_name=task)
        for n, (prompt, _) in enumerate(documents)
    ]


def alone(world, video, prompt, longest):
    """The run's own answer to one question."""
    module, read = open_run(world / "run", torch.device("cpu"))
    module.max_new_tokens = longest
    return module.answers(read({"video": video}) | {"questions": [Question("q", prompt, ())]})[0]


@pytest.fixture
def encoded(monkeypatch):
    """The streams of every video that is encoded."""
    seen = []
    encode = InstructionTuning.encode

    def watched(module, episode):
        seen.append(set(episode["streams"]))
        return encode(module, episode)

    monkeypatch.setattr(InstructionTuning, "encode", watched)
    return seen


def test_answers_are_the_runs_in_order_and_each_video_is_encoded_once(model, world, encoded):
    one, two = world / "one.mp4", world / "two.mp4"
    documents = [("What is it?", two), ("What is it?", one), ("How many?", two), ("Why?", one)]
    answers = model.generate_until(requests_for(model, *documents))
    assert encoded == [{"video", "highfps"}] * 2
    assert answers == [alone(world, video, prompt, 16) for prompt, video in documents]
    assert len(set(answers)) == 4


def test_each_request_has_its_own_length_and_stops(model, world, encoded):
    video = world / "one.mp4"
    full = alone(world, video, "Why?", 16)
    stop = full[len(full) // 2 :][:2]
    requests = [
        *requests_for(model, ("Why?", video), max_new_tokens=3),
        *requests_for(model, ("Why?", video), until=["", "never", stop]),
        *requests_for(model, ("Why?", video), max_new_tokens=None, until=[]),
        *requests_for(model, ("Why?", video), until=stop),
    ]
    encoded.clear()
    short, cut, own, same = model.generate_until(requests)
    assert len(encoded) == 1
    assert short == alone(world, video, "Why?", 3) != own == alone(world, video, "Why?", 5)
    assert cut == same == full.split(stop)[0].rstrip() != full


@pytest.mark.parametrize("setting", [{"do_sample": True}, {"repetition_penalty": 1.1}])
def test_sampling_is_refused_with_the_option_that_turns_it_off(plugin, setting):
    (key,) = setting
    with pytest.raises(UserError, match=rf"mvbench, document 7: {key}=.*--gen_kwargs {key}="):
        plugin.followed("mvbench, document 7", USUAL | setting)


@pytest.mark.parametrize(
    "setting", [{"image_aspect_ratio": "pad"}, {"max_new_tokens": 0}, {"max_new_tokens": "many"}]
)
def test_unsupported_settings_are_refused(plugin, setting):
    with pytest.raises(UserError, match=f"toy: .*{next(iter(setting))}="):
        plugin.followed("toy", USUAL | setting)


def test_settings_without_effect_are_accepted(plugin):
    harmless = {"top_k": 1, "seed": 0, "temperature": None, "repetition_penalty": 1.0}
    assert plugin.followed("toy", USUAL | harmless) == (16, ("\n\n",))
    assert plugin.followed("toy", {"until": None, "do_sample": False}) == (None, ())
    assert plugin.followed("toy", {}) == (None, ())


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([turn("user", "Why?", ("image", Image.new("RGB", (4, 4))))], "one video file"),
        ([turn("user", "Why?", ("video", "a.mp4"), ("video", "b.mp4"))], "one video file"),
        ([turn("user", "Why?", ("image", "page.png"))], "one video file"),
        ([turn("user", "Why?")], "one video file"),
        ([turn("user", "Why?", ("video", "gone.mp4"))], "gone.mp4 does not exist"),
        ([turn("system", "Be kind."), turn("user", "Why?")], "chat of system, user, but"),
        ([turn("user", "Why?"), turn("assistant", "So.")], "chat of user, assistant, but"),
        (
            [{"role": "user", "content": [{"type": "video", "url": "a.mp4", "start_time": 1.0}]}],
            "one video file",
        ),
    ],
)
def test_all_documents_are_checked_before_the_first_is_answered(
    model, world, encoded, chat, message
):
    video = str(world / "one.mp4")
    requests = [
        *requests_for(model, ("Why?", video)),
        *requests_for(model, ("Why?", video), chat=lambda _: chat),
    ]
    with pytest.raises(UserError, match=f"toy, document 0.*{message}"):
        model.generate_until(requests)
    assert not encoded


def test_earlier_rounds_of_a_chat_are_read(plugin, world):
    video = str(world / "one.mp4")
    chat = [
        turn("user", "Is it red?", ("video", video)),
        turn("assistant", "Yes."),
        turn("user", "Why?"),
    ]
    question, path = plugin.conversation("toy", chat)
    assert (question.history, question.prompt) == ((("Is it red?", "Yes."),), "Why?")
    assert path == Path(video)


def test_a_question_of_our_own_tasks_is_answered_as_vlynx_eval_does(
    plugin, world, tmp_path, monkeypatch, encoded
):
    write_scannet_scenes(tmp_path, 2)
    write_scanqa(tmp_path, "val", [(0, "a", "How far?"), (1, "b", "Why?"), (0, "c", "Why?")])
    monkeypatch.setenv("VLYNX_DATA", str(tmp_path))
    config = config_of("DepthDataModule", "3d")
    config["model"]["init_args"] |= {"task": "task", "max_new_tokens": 5}
    shutil.copytree(world / "run" / "adapters", tmp_path / "run" / "adapters")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    model = plugin.VlynxModel(run=str(tmp_path / "run"), device="cpu")
    rows = lmms_tasks.scanqa(SimpleNamespace(from_list=list))
    model.task_dict = {"vlynx_scanqa": {"test": rows}}
    arguments = [(None, None, USUAL, n, "vlynx_scanqa", "test") for n in range(len(rows))]
    answers = model.generate_until([SimpleNamespace(args=args) for args in arguments])
    assert encoded == [{"video", "3d"}] * 2
    data = DepthDataModule(
        tmp_path, benchmark=ScanQA(tmp_path), objective="tuning", frames=3, test_split="val",
        frame_size=model._module.backbone.frame_size, num_workers=0,
    )  # fmt: skip
    data.setup("test")
    model._module.max_new_tokens = USUAL["max_new_tokens"]
    expected = {
        question.id: text
        for batch in data.test_dataloader()
        for episode in batch
        for question, text in zip(episode["questions"], model._module.answers(episode), strict=True)
    }
    assert dict(zip((row["question_id"] for row in rows), answers, strict=True)) == expected
    assert len(set(answers)) == 3


def test_other_kinds_of_requests_say_which_task_to_leave_out(model):
    requests = requests_for(model, ("Why?", "a.mp4"), task="nextqa")
    with pytest.raises(NotImplementedError, match="leave nextqa out"):
        model.loglikelihood(requests)
    with pytest.raises(NotImplementedError, match="leave nextqa out"):
        model.generate_until_multi_round(requests)


@given(st.text("ab\n"), st.lists(st.text("ab\n", max_size=3), max_size=3))
def test_an_answer_ends_before_the_first_stop_in_it(plugin, answer, until):
    stops = [re.escape(text) for text in until if text]
    expected = re.split("|".join(stops), answer)[0] if stops else answer
    assert plugin.cut(answer, until) == expected.rstrip()


def test_the_project_names_what_the_registry_asks_for(plugin):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = project["entry-points"]["lmms_eval.models"]["vlynx"]
    assert named == f"{plugin.__name__}:{plugin.manifest.__name__}"
    assert not plugin.VlynxModel.is_simple


def test_lmms_eval_scores_a_task_with_it(plugin, world, tmp_path):
    evaluator = pytest.importorskip("lmms_eval.evaluator")
    from lmms_eval.tasks import TaskManager

    videos = [str(world / f"{name}.mp4") for name in ("one", "two", "one")]
    prompts = ["What is it?", "What is it?", "How many?"]
    said = [alone(world, Path(v), p, 16) for v, p in zip(videos, prompts, strict=True)]
    rows = [
        {"video": v, "prompt": p, "answer": a}
        for v, p, a in zip(videos, prompts, [*said[:2], "something else"], strict=True)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "see.py").write_text("def video(document):\n    return [document['video']]\n")
    usual = json.dumps({key: value for key, value in USUAL.items() if key != "until"})
    (tmp_path / "toy.yaml").write_text(
        f"""
task: toy
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.json}}, cache_dir: {tmp_path}/cache}}
test_split: test
output_type: generate_until
doc_to_visual: !function see.video
doc_to_text: "{{{{prompt}}}}"
doc_to_target: answer
generation_kwargs: {usual}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
    )
    results = evaluator.simple_evaluate(
        model="vlynx",
        model_args=f"run={world}/run",
        tasks=["toy"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    assert results["results"]["toy"]["exact_match,none"] == pytest.approx(2 / 3)
    assert [sample["filtered_resps"] for sample in results["samples"]["toy"]] == [[s] for s in said]
