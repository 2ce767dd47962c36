import json

import pytest
import yaml

from vlynx_pl.commands.probing import probe
from vlynx_pl.commands.stages import Choices, evaluate
from vlynx_pl.io.errors import UserError

SCORES = {"class_path": "callbacks.AnswerScores", "init_args": {"probe": False}}
TOKENS = {"class_path": "callbacks.KeepTokens", "init_args": {"folder": "tokens"}}


@pytest.fixture
def run(tmp_path):
    """A function that writes a run's configuration: settings of the model, callbacks → folder."""

    def write(streams, callbacks=None, **model):
        settings = {"task": "scanqa", "streams": streams and {"init_args": streams}, **model}
        saved = {"model": {"init_args": settings}, "trainer": {"callbacks": callbacks}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
        return tmp_path

    return write


READS = {"modalities": {"3d": "base"}}


def test_a_tuned_run_is_asked_its_val_questions_with_its_own_adapter(run):
    folder = run(READS)
    adapter = folder / "adapters" / "llm-scanqa"
    with pytest.raises(UserError, match="was not tuned to its end"):
        probe(folder)
    adapter.mkdir(parents=True)
    assert probe(folder) == [
        "test",
        f"--config={folder / 'config.yaml'}",
        f"--run={folder / 'probe'}",
        f"--model.llm_adapter={adapter}",
        "--data.test_split=val",
    ]


def test_an_evaluation_is_repeated_as_it_was(run):
    arguments = probe(run({"side": "3d"}, llm_adapter="tuned/adapters/llm-scanqa"))
    assert len(arguments) == 3 and not any("split" in argument for argument in arguments)


def test_a_probe_that_was_switched_off_is_on_again(run):
    *_, last = probe(run(READS, [TOKENS, SCORES], llm_adapter="x"))
    assert json.loads(last.removeprefix("--trainer.callbacks=")) == [TOKENS]


@pytest.mark.parametrize("streams", [None, {"modalities": {}}])
def test_the_video_alone_cannot_be_muted(run, streams):
    with pytest.raises(UserError, match="reads the video alone, so there is nothing to mute"):
        probe(run(streams))


def test_a_folder_without_a_tuned_run(tmp_path):
    with pytest.raises(UserError, match="not the configuration of a tuned run"):
        probe(tmp_path)
    (tmp_path / "config.yaml").write_text("model: {init_args: {modality: 3d}}\n")
    with pytest.raises(UserError, match="not the configuration of a tuned run"):
        probe(tmp_path)


def test_the_baseline_is_asked_only_on_request(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    choices = Choices("miniature", request.config.rootpath / "runs")
    plain, asked = (set(evaluate("scanqa", choices, baseline)) for baseline in (False, True))
    assert asked - plain == {
        "--trainer.callbacks+=callbacks.AnswerScores",
        "--trainer.callbacks.baseline=true",
    }
