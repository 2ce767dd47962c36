"""Untrusted configurations, as they are given and as a run keeps them."""

import json
from pathlib import Path

import pytest
import yaml

from tests.security.conftest import ALIGNED, REPOSITORY
from vlynx_pl.commands.asking import ask, open_run, read_configuration
from vlynx_pl.io.errors import UserError
from vlynx_pl.runs.run_folder import RunFolderError, refuse_other_settings


def tagged(marker: Path) -> list[str]:
    return [
        f'!!python/object/apply:os.mkdir ["{marker}"]',
        f'!!python/object/new:subprocess.Popen [["mkdir", "{marker}"]]',
        "!!python/name:os.mkdir",
        "!!python/module:os",
    ]


@pytest.mark.parametrize(
    ("command", "number"),
    [*(("fit", number) for number in range(4)), ("test", 0), ("check", 0)],
)
def test_a_configuration_with_python_in_its_tags(vlynx, tmp_path, marker, command, number):
    path = tmp_path / "strange.yaml"
    path.write_text(f"data:\n  class_path: {tagged(marker)[number]}\n")
    code, said = vlynx(command, f"--config={path}")
    assert code and "could not determine a constructor for the tag" in said


CALLS = {
    "subprocess.Popen": lambda marker: {"args": ["mkdir", str(marker)]},
    "os.mkdir": lambda marker: {"path": str(marker)},
    "builtins.eval": lambda marker: {"source": f"__import__('os').mkdir({str(marker)!r})"},
}


@pytest.mark.parametrize(
    ("part", "call"),
    [
        *(("callbacks", call) for call in CALLS),
        *((part, "os.mkdir") for part in ("backbone", "model", "data", "benchmark", "logger")),
    ],
)
def test_a_configuration_that_calls_what_is_no_such_part(vlynx, tmp_path, marker, call, part):
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
    """A tuned run as far as its configuration says; its adapter is an empty folder."""
    config = ALIGNED | {
        "model": {
            "class_path": "vlynx_pl.tuning.InstructionTuning",
            "init_args": {"task": "qa"},
        }
    }
    folder = tmp_path / "run"
    (folder / "adapters" / "llm-qa").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    read_configuration(folder)
    return folder


def refused(run) -> None:
    """By all that read the configuration of a run."""
    with pytest.raises(UserError, match="is no configuration of a run"):
        read_configuration(run)
    with pytest.raises(RunFolderError, match="cannot be read"):
        refuse_other_settings(run, {})


@pytest.mark.parametrize("number", range(4))
def test_a_runs_configuration_with_python_in_its_tags(run, marker, number):
    config = run / "config.yaml"
    for content in (
        f"data: {tagged(marker)[number]}",
        config.read_text().replace("nowhere", tagged(marker)[number]),
    ):
        config.write_text(content)
        refused(run)


@pytest.mark.parametrize("deep", ["[" * 5_000, "[" * 1_000 + "]" * 1_000, "{a: " * 5_000])
def test_a_runs_configuration_that_is_too_deep(run, deep):
    (run / "config.yaml").write_text(deep)
    refused(run)


@pytest.mark.parametrize("content", ["", "3", "[a]"])
def test_a_runs_configuration_that_is_none(run, content):
    (run / "config.yaml").write_text(content)
    refused(run)


@pytest.mark.parametrize(
    ("part", "call"), list(zip(("backbone", "model", "data"), CALLS, strict=True))
)
def test_a_run_that_calls_what_is_no_such_part(run, marker, call, part, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[part]["class_path"] = call
    config[part]["init_args"] |= CALLS[call](marker)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="does not correspond to a subclass"):
        ask(run, "?", {"depth": REPOSITORY}) if part == "data" else open_run(run)
