"""Model cards are complete, can be parsed, and tell nothing of this machine."""

import json

import pytest
from huggingface_hub import ModelCard

from vlynx_pl.io.errors import UserError
from vlynx_pl.runs.cards import card, write_cards

MADE_WITH = {
    "backbone": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "fingerprint": "f1e2",
    "quantization": None,
    "frames": {"frames": 4, "modalities": [["Depth", {"encoding": "turbo"}]]},
    "data": "8 train clips, 2 skipped",
    "modules": {"vision": "model.vision_tower", "llm": "model.language_model"},
}
READS = {"3d": {"adapter": "abcd", "pooled": False}, "audio": {"adapter": None, "pooled": False}}
GAP = {"attention_per_layer": [0.25, 0.75], "stat": 1.5, "sample_variance": 3, "effective_rank": 2}
REPORT = {"video": GAP, "before": GAP, "after": GAP | {"stat": 0.75}, "warnings": []}
SCORES = {
    "scanqa/cider": 71.25,
    "scanqa/n_total": 12.0,
    "intervals": {"scanqa/cider": [60.5, 80.25]},
    "probe": {
        "figure": "scanqa/cider",
        "score": 71.25,
        "another clip's 3d": {"score": 70.0, "difference": 1.25, "interval": [-1, 2], "changed": 5},
        "warnings": ["the answers do not depend on 3d"],
    },
}


@pytest.fixture
def run(tmp_path):
    """A function: adapter, further notes on it → folder of a run that has saved it."""

    def saved(name, **notes):
        folder = tmp_path / "run" / "adapters" / name
        folder.mkdir(parents=True)
        settings = {"r": 64, "lora_alpha": 16, "use_dora": True}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        (folder / "made_with.json").write_text(json.dumps(MADE_WITH | notes))
        session = {"git": {"commit": "c0ffee", "dirty": False}}
        (tmp_path / "run" / "provenance.json").write_text(json.dumps([session]))
        return tmp_path / "run"

    return saved


def test_the_card_of_an_alignment_is_completed_by_its_report(run):
    folder = run("vision-3d")
    path = folder / "adapters" / "vision-3d" / "README.md"
    write_cards(folder)
    first = path.read_text()
    assert "training has not finished" in first and "8 train clips, 2 skipped" in first
    assert "DoRA, rank 64, alpha 16" in first and "c0ffee" in first and "encoding: turbo" in first
    assert 'PeftModel.from_pretrained(model.model.vision_tower, "adapters/vision-3d")' in first
    described = ModelCard(first).data
    assert described.base_model == MADE_WITH["backbone"] and described.library_name == "peft"
    assert described.tags == ["v-lynx", "lora", "3d"]

    write_cards(folder, {"report": REPORT})
    whole = path.read_text()
    assert "| L_stat | 1.50 | 1.50 | 0.75 |" in whole and "| L_attn, mean of the layers" in whole
    assert "training has not finished" not in whole and "no sign that the tokens" in whole
    (folder / "report.json").write_text(json.dumps(REPORT))
    assert card(path.parent, folder) == whole, "the same from the file as before it was written"
    write_cards(folder, {"report": REPORT | {"warnings": ["alignment has collapsed the tokens"]}})
    assert "* alignment has collapsed the tokens" in path.read_text()


def test_the_card_of_a_tuned_run_has_scores_with_intervals_and_the_probe(run):
    folder = run("llm-scanqa", reads=READS)
    (folder / "eval-scanqa").mkdir()
    (folder / "eval-scanqa" / "scores-test.json").write_text(json.dumps(SCORES))
    failed = {"scanqa/meteor": "Java is missing"}
    write_cards(folder, {"scores-val": {**SCORES, "scanqa/cider": 50.0, "failed": failed}})
    text = (folder / "adapters" / "llm-scanqa" / "README.md").read_text()
    for line in (
        "### `eval-scanqa/scores-test`",
        "| `scanqa/cider` | 71.25 | [60.50, 80.25] |",
        "### `scores-val`",
        "| `scanqa/cider` | 50.00 | [60.50, 80.25] |",
        "| `scanqa/n_total` | 12 |  |",
        "* `scanqa/meteor` could not be computed.",
        "| another clip's 3d | 70.00 | +1.25 | [-1.00, 2.00] | 5 % |",
        "* the answers do not depend on 3d",
        "| Modality | 3d, audio |",
        "`3d` is read with `adapters/vision-3d`. `audio` is read without one, too.",
        "PeftModel.from_pretrained(model.model.language_model",
    ):
        assert line in text


def test_the_card_of_a_reduced_run_says_what_is_read_and_how_to_repeat_it(run):
    some = {"reduce": "salient", "compact": False, "keep": 0.25, "usual": "1"}
    few = {"reduce": "pool", "compact": False, "keep": "4 per frame"}
    folder = run("llm-scanqa", reads={"3d": {**READS["3d"], **some}, "video": few})
    text = card(folder / "adapters" / "llm-scanqa", folder)
    assert "| Modality | 3d |" in text and "PAVE" not in text
    assert "Of `3d`, the LLM reads only some tokens (salient)" in text
    assert "Of `video`, the LLM reads only some tokens (pool)" in text
    assert """--model.streams.keep='{"3d": 0.25, "video": 4}'""" in text


def test_a_card_names_no_folder_of_this_machine(run, tmp_path):
    folder = run("vision-3d", backbone=str(tmp_path / "models" / "mine"))
    text = card(folder / "adapters" / "vision-3d", folder)
    assert str(tmp_path) not in text and "Base model | `mine`" in text
    assert ModelCard(text).data.base_model is None


def test_a_licence_is_in_the_front_matter_and_in_the_text(run):
    folder = run("vision-3d")
    text = card(folder / "adapters" / "vision-3d", folder, licence="apache-2.0")
    assert ModelCard(text).data.license == "apache-2.0"
    assert "apache-2.0, as far as the licences of the base model" in text


@pytest.mark.parametrize("content", ["[", "[]", "3", '{"backbone": "a"}'])
def test_notes_that_cannot_be_used_are_named(run, content):
    folder = run("vision-3d")
    path = folder / "adapters" / "vision-3d" / "made_with.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"made_with\.json cannot be used for a model card"):
        card(path.parent, folder)
    with pytest.warns(UserWarning, match="vision-3d has no new model card"):
        write_cards(folder)  # the results, which follow, are not lost
    assert not (path.parent / "README.md").exists()
