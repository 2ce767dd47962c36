"""Untrusted configurations, as they are given and as a run keeps them."""

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.security.conftest import ALIGNED
from vlynx_pl.commands.asking import ask, open_run, read_configuration
from vlynx_pl.io.errors import UserError
from vlynx_pl.runs.run_folder import RunFolderError, refuse_other_settings


def tagged(marker: Path) -> list[str]:
    return [
        f'!!python/object/apply:os.mkdir ["{marker}"]',
        f'!!python/object/new:subprocess.Popen [["mkdir", "{marker}"]]',
        "!!python/name:os.mkdir",
    ]


@pytest.mark.parametrize(("command", "number"), [("fit", 0), ("fit", 1), ("test", 2), ("check", 0)])
def test_a_configuration_with_python_tags(vlynx, tmp_path, marker, command, number):
    path = tmp_path / "strange.yaml"
    path.write_text(f"data:\n  class_path: {tagged(marker)[number]}\n")
    code, said = vlynx(command, f"--config={path}")
    assert code and "could not determine a constructor for the tag" in said


CALLS = {
    "subprocess.Popen": lambda marker: {"args": ["mkdir", str(marker)]},
    "os.mkdir": lambda marker: {"path": str(marker)},
    "builtins.eval": lambda marker: {"source": f"__import__('os').mkdir({str(marker)!r})"},
}
PARTS = ("backbone", "model", "data", "benchmark", "logger")


@pytest.mark.parametrize(
    ("part", "call"),
    [*(("callbacks", call) for call in CALLS), *((part, "os.mkdir") for part in PARTS)],
)
def test_a_configuration_that_calls_another_class_or_function(vlynx, tmp_path, marker, call, part):
    strange = {"class_path": call, "init_args": CALLS[call](marker)}
    config = json.loads(json.dumps(ALIGNED))
    if part == "benchmark":
        config["data"]["init_args"]["benchmark"] = strange
    elif part in config:
        config[part] = strange
    else:
        config["trainer"] = {part: [strange] if part == "callbacks" else strange}
    (tmp_path / "strange.yaml").write_text(yaml.safe_dump(config))
    code, said = vlynx("fit", f"--config={tmp_path}/strange.yaml", f"--run={tmp_path}/run")
    assert code and f"Import path {call} does not correspond to a subclass of" in said
    assert not (tmp_path / "run").exists()


@pytest.fixture
def run(tmp_path) -> Path:
    """A tuned run as far as its configuration tells; its adapter is an empty folder."""
    model = {"class_path": "vlynx_pl.tuning.InstructionTuning", "init_args": {"task": "qa"}}
    folder = tmp_path / "run"
    (folder / "adapters" / "llm-qa").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(ALIGNED | {"model": model}))
    read_configuration(folder)
    return folder


def test_a_damaged_configuration_of_a_run_is_refused_by_all_who_read_it(run, marker):
    config = run / "config.yaml"
    whole, tag = config.read_text(), tagged(marker)[0]
    deep = ["[" * 5_000, "[" * 1_000 + "]" * 1_000, "{a: " * 5_000]
    for content in (f"data: {tag}", whole.replace("nowhere", tag), *deep, "", "3", "[a]"):
        config.write_text(content)
        with pytest.raises(UserError, match="configuration of a run"):
            read_configuration(run)
        with pytest.raises(RunFolderError, match="cannot be read"):
            refuse_other_settings(run, {})


@pytest.mark.parametrize(
    ("part", "call"), list(zip(("backbone", "model", "data"), CALLS, strict=True))
)
def test_a_run_that_calls_another_class_or_function(run, marker, call, part, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[part]["class_path"] = call
    config[part]["init_args"] |= CALLS[call](marker)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="does not correspond to a subclass"):
        ask(run, "?", {"depth": REPOSITORY}) if part == "data" else open_run(run)
