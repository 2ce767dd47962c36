"""The SLURM jobs without SLURM: what they run, and how they react to its exit code.

`make slurm-test` runs them in a real SLURM.
"""

import os
import shlex
import subprocess

import pytest

from tests.conftest import REPOSITORY

EXPERIMENTS = REPOSITORY / "experiments"
FOLDER = EXPERIMENTS / "slurm"
RUNNING, ALONE = {"STATE": "RUNNING"}, {"SLURM_JOB_ID": "7"}
ARRAY = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7"}
# The tests never call the real commands: an invented job number could be somebody's job.
FAKES = {
    "srun": r"""printf '%s\n' "$@" > "$NOTES/srun"
        for signal in ${SIGNALS:-}; do kill -s "$signal" $PPID; done; exit "${EXIT:-0}" """,
    "scontrol": r"""echo "$*" >> "$NOTES/scontrol"
        case $* in *show*)
          [ -n "$STATE" ] || exit 1
          echo "JobId=7 JobState=$STATE Reason=None"
          sleep 0.05; echo "Command=/x" || exit 141 ;;
        esac""",
}


@pytest.fixture
def submit(tmp_path):
    """Run a script as SLURM would: (exit code, stderr, words of srun, calls of scontrol)."""
    for name, code in FAKES.items():
        fake = tmp_path / name
        fake.write_text(f"#!/bin/bash\n{code}\n")
        fake.chmod(0o755)

    def run(script, *options, **variables):
        notes = {name: tmp_path / "notes" / name for name in FAKES}
        notes["srun"].parent.mkdir(exist_ok=True)
        for note in notes.values():
            note.write_text("")
        of_slurm = {"SLURM_SUBMIT_DIR": str(REPOSITORY), "SLURM_NNODES": "1", **ALONE}
        path = {"PATH": f"{tmp_path}:{os.defpath}", "NOTES": str(tmp_path / "notes")}
        done = subprocess.run(
            ["bash", str(FOLDER / f"{script}.sbatch"), *options],
            env=of_slurm | path | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        said, called = (notes[name].read_text().splitlines() for name in FAKES)
        return done.returncode, done.stderr, said, called

    return run


def value(words, option):
    [found] = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    return found


@pytest.mark.parametrize(
    ("ids", "name"), [(ALONE, "7"), (ARRAY | {"SLURM_ARRAY_TASK_ID": "3"}, "7_3")]
)
@pytest.mark.parametrize("state", ["RUNNING", ""])  # or the controller does not answer
@pytest.mark.parametrize("signals", ["", "USR1 TERM"])  # to the script itself
def test_a_preempted_job_is_requeued_once(submit, ids, name, state, signals):
    code, said, _, called = submit("align", EXIT="75", STATE=state, SIGNALS=signals, **ids)
    assert called == [f"--oneliner show job {name}", f"requeue {name}"]
    assert code == 75
    assert f"job {name}: preempted; returns to the queue" in said


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING", "PREEMPTED"])
def test_a_job_that_is_cancelled_or_already_requeued_is_not_requeued(submit, state):
    code, said, _, called = submit("align", EXIT="75", STATE=state)
    assert code == 75
    assert called == ["--oneliner show job 7"]
    assert "returns" not in said


@pytest.mark.parametrize(
    ("code", "word"), [(0, "finished"), (1, "failed"), (130, "failed"), (137, "failed")]
)
def test_other_exit_codes_become_that_of_the_job(submit, code, word):
    ended, said, _, called = submit("align", EXIT=str(code), **RUNNING)
    assert ended == code
    assert called == []
    assert word in said


def test_no_process_is_killed_because_another_has_ended(submit):
    _, _, words, _ = submit("align")
    assert words[:2] == ["--kill-on-bad-exit=0", "--wait=0"]
    _, _, words, _ = submit("align", SLURM_WAIT="600")
    assert words[1] == "--wait=600"


def test_the_log_contains_the_command_quoted_for_a_shell(submit):
    _, said, words, _ = submit("tune", "--data.x=a, b", TASK="scanqa", ALIGNED="/a, b: c")
    assert "--aligned=/a, b: c" in words
    assert shlex.split(said.partition("start 0: ")[2].splitlines()[0]) == words[2:]


@pytest.mark.parametrize(
    ("stage", "folders"), [("align", ["align"]), ("tune", ["tune"]), ("eval", ["tune", "eval"])]
)
def test_an_array_covers_all_configurations_and_three_seeds(submit, stage, folders):
    names = [p.stem for name in folders for p in sorted((EXPERIMENTS / name).glob("*.yaml"))]
    runs = 3 * len(names)
    for index in (0, len(names) - 1, len(names), runs - 1):
        code, _, words, _ = submit(stage, SLURM_ARRAY_TASK_ID=str(index), **ARRAY)
        assert (code, words[3:5]) == (0, [stage, names[index % len(names)]])
        assert value(words, "--seed") == ("42", "1", "2")[index // len(names)]
    code, said, words, _ = submit(stage, SLURM_ARRAY_TASK_ID=str(runs), **ARRAY)
    assert (code, words) == (2, [])
    assert f"--array=0-{runs - 1}" in said


def test_given_names_and_seeds_replace_the_lists(submit):
    given = {"MODALITY": "ego", "SEED": "5 6 7", "RUNS": "R"}
    for index, seed in enumerate("567"):
        _, _, words, _ = submit("align", SLURM_ARRAY_TASK_ID=str(index), **given, **ARRAY)
        assert words[4] == "ego" and value(words, "--seed") == seed
        assert value(words, "--runs") == "R"


def test_an_array_is_not_written_to_one_folder(submit):
    for stage, name in (("align", "RUN"), ("tune", "TUNED")):
        code, said, words, _ = submit(stage, SLURM_ARRAY_TASK_ID="0", **{name: "R"}, **ARRAY)
        assert (code, words) == (2, [])
        assert f"give RUNS, a folder for all of them, instead of {name}" in said


def made(*words: str) -> str:
    """What make would run."""
    return subprocess.run(
        ["make", "-n", "--no-print-directory", *words],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]},  # without the variables of make test
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("stage", ["align", "tune", "eval"])
def test_jobs_run_what_make_runs(submit, stage):
    given = {"MODALITY": "audio", "TASK": "avut", "DATA": "/d/mine", "ANNOTATIONS": "/a b"}
    given |= {"BACKBONE": "llava_ov_7b", "TUNED": "tuned", "RUN": "aligned"}
    lines = made(stage, *(f"{k}={v}" for k, v in given.items())).splitlines()
    [command] = [line for line in lines if f"vlynx {stage}" in line]
    _, _, words, _ = submit(stage, "--model.lora.rank=8", **given)
    added = ["--seed=42", "--trainer.num_nodes=1", "--trainer.devices=1", "--model.lora.rank=8"]
    assert sorted(words[2:]) == sorted([*shlex.split(command), *added])
    assert words[2:5] == shlex.split(command)[:3] and words[-1] == "--model.lora.rank=8"


@pytest.mark.parametrize(
    ("modality", "given", "scenes"),
    [("3d", (), 1200), ("audio", (), 600), ("3d", ("SCENES=7",), 7)],
)
def test_the_size_of_a_world_depends_on_its_modality(modality, given, scenes, tmp_path):
    done = tmp_path / "installed"
    done.touch()
    world = f"data/toyworld/{modality}/toyworld.json"
    command = f"experiments.toyworld {modality} --out data/toyworld/{modality} --scenes {scenes} "
    assert command in made("-B", "-o", str(done), f"INSTALLED={done}", world, *given)


def test_processes_follow_from_the_allocation(submit):
    _, _, words, _ = submit("tune", SLURM_NNODES="2", SLURM_NTASKS_PER_NODE="4")
    assert value(words, "--trainer.num_nodes") == "2"
    assert value(words, "--trainer.devices") == "4"
    assert value(words, "--trainer.strategy") == "ddp"


def test_mistakes_are_reported(submit, tmp_path):
    code, said, _, _ = submit("align", ARGS="--model.lora.rank=8")
    assert code == 2
    assert "after the script" in said
    code, said, words, _ = submit("align", SLURM_SUBMIT_DIR=str(tmp_path))
    assert (code, words) == (2, [])
    assert "experiments/slurm/job.sh" in said
