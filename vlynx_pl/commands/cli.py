"""Entry point: every command of ``vlynx``.

What a command needs is imported when it runs, so that the small ones start at once.
"""

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.markup import escape

from datamodules.processes import start_server
from vlynx_pl.commands.analyse.options import analyse
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import Interrupted, note_signals

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
prepare = typer.Typer(help="Bring recordings and downloads into a layout that is read.")
app.add_typer(prepare, name="prepare")
app.add_typer(analyse, name="analyse")
# LightningCLI parses the arguments of these commands; for fit and test, also --help.
_PASS_THROUGH: Final[dict[str, Any]] = {"allow_extra_args": True, "ignore_unknown_options": True}
_LIGHTNING: Final = _PASS_THROUGH | {"help_option_names": []}

_Backbone = Annotated[str, typer.Option(help="a file of experiments/backbones")]
_Data = Annotated[Path | None, typer.Option(help="folder of your media; else the toy world")]
_Run = Annotated[Path | None, typer.Option(help="folder that the run is written into")]
_Runs = Annotated[Path, typer.Option(help="folder of all runs that have no --run")]
_Seed = Annotated[int | None, typer.Option(help="of everything; also in names of folders")]
_Task = Annotated[
    str, typer.Argument(help="such as scanqa; a file of experiments/tune or experiments/eval")
]
_Aligned = Annotated[
    Path | None, typer.Option(help="folder of the alignment, else that of vlynx align")
]
_Annotations = Annotated[Path | None, typer.Option(help="the benchmark's own files")]

_LAUNCHER_NUMBERS: Final = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_PORT", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS"),
    *("SLURM_NTASKS_PER_NODE", "SLURM_NNODES"),
)
"""Environment variables that launchers set, and that must be numbers."""


@app.command(context_settings=_PASS_THROUGH)
def align(
    context: typer.Context,
    modality: Annotated[str, typer.Argument(help="such as 3d; a file of experiments/align")],
    backbone: _Backbone = "miniature",
    data: _Data = None,
    run: _Run = None,
    runs: _Runs = Path("runs"),
    seed: _Seed = None,
) -> None:
    """Align a modality to the video interface; accepts all options of vlynx fit."""
    _begin()
    from vlynx_pl.commands.stages import Choices, align

    choices = Choices(backbone, runs, seed, data, run=run)
    _run_lightning([*align(modality, choices), *context.args])


@app.command(context_settings=_PASS_THROUGH)
def tune(
    context: typer.Context,
    task: _Task,
    backbone: _Backbone = "miniature",
    data: _Data = None,
    annotations: _Annotations = None,
    aligned: _Aligned = None,
    run: _Run = None,
    runs: _Runs = Path("runs"),
    seed: _Seed = None,
) -> None:
    """Tune the LLM on a task with the aligned modality; accepts all options of vlynx fit."""
    _begin()
    from vlynx_pl.commands.stages import Choices, tune

    choices = Choices(backbone, runs, seed, data, annotations, aligned, run=run)
    _run_lightning([*tune(task, choices), *context.args])


@app.command("eval", context_settings=_PASS_THROUGH)
def evaluate(
    context: typer.Context,
    task: _Task,
    backbone: _Backbone = "miniature",
    data: _Data = None,
    annotations: _Annotations = None,
    aligned: _Aligned = None,
    tuned: Annotated[
        Path | None, typer.Option(help="folder of the tuned run, else that of vlynx tune")
    ] = None,
    run: _Run = None,
    runs: _Runs = Path("runs"),
    seed: _Seed = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="also ask the untuned backbone, about the video")
    ] = False,
) -> None:
    """Answer and score a task's test questions; accepts all options of vlynx test."""
    _begin()
    from vlynx_pl.commands.stages import Choices, evaluate

    choices = Choices(backbone, runs, seed, data, annotations, aligned, tuned, run)
    _run_lightning([*evaluate(task, choices, baseline), *context.args])


@app.command(context_settings=_PASS_THROUGH)
def probe(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="folder that vlynx tune or vlynx eval has written")],
) -> None:
    """Ask a run's questions again without each stream, and with another clip's, into RUN/probe.

    Every evaluation does so; this is for runs that were evaluated without. Accepts all options of
    vlynx test.
    """
    _begin()
    from vlynx_pl.commands.probing import probe

    _run_lightning([*probe(run), *context.args])


@app.command(context_settings=_LIGHTNING)
def fit() -> None:
    """Align or tune: --config BACKBONE.yaml --config STAGE.yaml (later --config wins)."""
    _begin()
    _run_lightning(sys.argv[1:])


@app.command(context_settings=_LIGHTNING)
def test() -> None:
    """Answer and score the test questions of a tuned run: the --config of its fit, or its own."""
    _begin()
    _run_lightning(sys.argv[1:])


def _begin() -> None:
    """Install signal handlers, before imports that take seconds."""
    note_signals()
    start_server()


def _run_lightning(arguments: list[str]) -> None:
    from vlynx_pl.commands.lightning_cli import run

    run(arguments)


@app.command(context_settings=_PASS_THROUGH)
def check(
    context: typer.Context,
    csv: Annotated[Path | None, typer.Option(help="write a row per file there")] = None,
    coverage: Annotated[float, typer.Option(help="exit 1 if a smaller share is usable")] = 1.0,
    picture: Annotated[Path | None, typer.Option(help="draw the first frames there, PNG")] = None,
) -> None:
    """Check which files a run will find: --config MODALITY.yaml [--data.root=...].

    Accepts all --data options of vlynx fit, and whole configurations of runs.
    """
    _begin()
    from datamodules.loading.coverage import check as look
    from vlynx_pl.commands.configuration import data_module
    from vlynx_pl.questions import STRUCTURE

    data = data_module(context.args)
    data.unfit = lambda question, learnt: question.unfit(STRUCTURE, learnt)
    if not look(data, csv, coverage, picture):
        sys.exit(1)


@app.command(context_settings=_PASS_THROUGH)
def plan(
    context: typer.Context,
    gpu: Annotated[str | None, typer.Option(help="only this one, such as A100-80GB")] = None,
    clips: Annotated[int, typer.Option(min=1, help="of the training data")] = 1000,
    question_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="of a clip's questions, else at most model.question_budget"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Say what a fit needs of a GPU, without weights: --config RUN.yaml [--model.KEY=VALUE ...].

    Accepts all options of vlynx fit.
    """
    from vlynx_pl.commands.plan.printing import print_plan

    print_plan(context.args, gpu, clips, question_tokens, json)


@prepare.command("7scenes")
def prepare_7scenes(
    source: Path,
    out: Path,
    scene: Annotated[str | None, typer.Option(help="name of the scene, else the folder's")] = None,
    depth_scale: Annotated[
        str, typer.Option(help="units per metre of its depth, or sun for SUN RGB-D's bits")
    ] = "1000",
) -> None:
    """Bring a 7-Scenes recording (frame-*.color/depth/pose) into ScanNet's exported layout."""
    from datamodules.media.depth_units import parse_scale
    from datamodules.media.prepare import prepare_7scenes as prepare

    prepare(source, out, scene, parse_scale(depth_scale))


@prepare.command("scannet")
def prepare_scannet(
    source: Annotated[Path, typer.Argument(help="a recording, such as scene0000_00.sens")],
    out: Path,
    frames: Annotated[int, typer.Option(min=0, help="evenly spaced; 0 is all of them")] = 32,
) -> None:
    """Export a ScanNet .sens recording as SensReader does."""
    from datamodules.media.prepare import prepare_scannet as prepare

    prepare(source, out, frames or None)


@prepare.command("depth-from-mesh")
def prepare_depth_from_mesh(
    mesh: Annotated[Path, typer.Argument(help="triangles in metres: .ply .obj .stl")],
    scene: Annotated[Path, typer.Argument(help="has color/, pose/, intrinsic/, but no depth/")],
    out: Path,
    intrinsics: Annotated[
        Path | None, typer.Option(help="matrix of the colour camera, else the scene's")
    ] = None,
    width: Annotated[int, typer.Option(min=2, help="of the depth frames, in pixels")] = 640,
) -> None:
    """Render the depth that a scene lacks from a scan of it."""
    from datamodules.media.mesh_depth import prepare_depth_from_mesh as prepare

    prepare(mesh, scene, out, intrinsics, width)


@prepare.command("unpack")
def prepare_unpack(
    folder: Annotated[Path, typer.Argument(help="a download, such as VideoMME's from the hub")],
) -> None:
    """Unpack the zips of a download, each beside itself; what is there already stays."""
    from datamodules.media.unpacking import unpack

    unpack(folder)


@app.command()
def score(
    benchmark: Annotated[str, typer.Option(help="such as ScanQA")],
    predictions: Annotated[Path, typer.Option(help='{"id": ..., "prediction": ...} on each line')],
    references: Annotated[Path, typer.Option(help="official annotation file, or its folder")],
    split: Annotated[
        Literal["train", "val", "test"] | None, typer.Option(help="of a folder")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="figure to print first, such as mlvu/macro7")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="other predictions, to subtract their scores")
    ] = None,
) -> None:
    """Score a file of predictions without a model."""
    from vlynx_pl.commands.scoring import score as run

    run(benchmark, predictions, references, split, protocol, against)


@app.command()
def ask(
    question: Annotated[
        str, typer.Argument(help="asked as typed, without the words that benchmarks add")
    ],
    run: Annotated[Path, typer.Option(help="folder of a tuned run")],
    video: Annotated[Path | None, typer.Option(help="video file; of ego runs, an exo view")] = None,
    audio: Annotated[Path | None, typer.Option(help="its sound, if not its own track")] = None,
    depth: Annotated[Path | None, typer.Option(help="scene folder, with its own video")] = None,
    ego: Annotated[Path | None, typer.Option(help="video file, the person's own view")] = None,
    frames: Annotated[
        Path | None, typer.Option(help="also write the frames there, for vlynx export's answer.py")
    ] = None,
) -> None:
    """Answer a question with a tuned run, and show the streams that it read.

    The answer goes to stdout, everything else to stderr. Run it in the folder where the run was
    tuned, as paths in its configuration may be relative.
    """
    from vlynx_pl.commands.asking import ask as answer

    files = {"video": video, "audio": audio, "depth": depth, "ego": ego}
    answer(run, question, files, frames)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a tuned run")],
    out: Annotated[Path, typer.Argument(help="new folder")],
    questions: Annotated[
        int, typer.Option(min=0, help="of the validation split, to compare the answers to")
    ] = 100,
) -> None:
    """Merge a tuned run's adapters into a model that answers with transformers alone."""
    from vlynx_pl.commands.export.exporting import export

    export(run, out, questions)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="folder of a finished run")],
    repository: Annotated[str, typer.Argument(help="NAMESPACE/NAME on the Hugging Face hub")],
    public: Annotated[bool, typer.Option("--public", help="a new one is for everybody")] = False,
    licence: Annotated[str | None, typer.Option(help="of the adapters, such as apache-2.0")] = None,
) -> None:
    """Upload a run's adapters with their cards, and nothing else, to the Hugging Face hub."""
    from vlynx_pl.commands.hub import push

    push(run, repository, public, licence)


@app.command()
def pull(
    repository: Annotated[str, typer.Argument(help="NAMESPACE/NAME on the Hugging Face hub")],
    folder: Annotated[
        Path | None, typer.Argument(help="new folder, else runs/NAME", show_default=False)
    ] = None,
) -> None:
    """Download adapters that vlynx push has uploaded, into a folder to use as a run."""
    from vlynx_pl.commands.hub import pull

    pull(repository, folder or Path("runs", Path(repository).name))


@app.command()
def serve(
    run: Annotated[list[Path], typer.Option(help="folder of a tuned run; may be repeated")],
    host: Annotated[str, typer.Option(help="others than loopback need --token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="VLYNX_TOKEN", help="secret that clients must send")
    ] = None,
    upload: Annotated[int, typer.Option(min=1, help="MiB of a file")] = 256,
    seconds: Annotated[float, typer.Option(min=1, help="s of a video or sound")] = 600,
    memory: Annotated[int, typer.Option(min=0, help="MiB of all sessions")] = 4096,
    queue: Annotated[int, typer.Option(min=1, help="requests under way")] = 64,
    timeout: Annotated[float, typer.Option(min=1, help="s that a request may take")] = 120,
) -> None:
    """Answer OpenAI's clients about clips, and show a page: http://127.0.0.1:8000.

    Run it in the folder where the runs were tuned, as paths in their configurations may be
    relative.
    """
    start_server()
    from vlynx_pl.commands.serving import serve
    from vlynx_pl.serving.limits import MIB, Limits

    limits = Limits(upload * MIB, seconds, memory * MIB, queue, timeout)
    serve(run, host, port, token, limits)


@app.command()
def params(
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Count the LoRA parameters of the paper's models, built without weights."""
    from vlynx_pl.commands.parameter_counts import print_counts

    print_counts(as_json=json)


@app.command()
def tiny(
    family: Annotated[str, typer.Argument(help="model_type of its configuration")],
    out: Annotated[Path, typer.Option(help="new folder")],
) -> None:
    """Write a tiny model with random weights, which every command takes as a backbone."""
    from vlynx_pl.backbones.tiny import write_tiny

    write_tiny(family, out)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="folder of an original InternVL2.5")],
    out: Annotated[Path, typer.Option(help="new folder")],
) -> None:
    """Write an original InternVL in the layout of transformers, which backbones are loaded from."""
    from vlynx_pl.backbones.convert import convert_internvl

    convert_internvl(source, out)


@app.command()
def modalities() -> None:
    """List the modalities that are installed, and where each comes from."""
    from datamodules.modalities.installed import print_installed

    print_installed()


@app.command("new-modality")
def new_modality(
    name: Annotated[str, typer.Argument(help="such as radar")],
    out: Annotated[Path | None, typer.Option(help="new folder, else vlynx-NAME")] = None,
) -> None:
    """Write a package that adds a modality: its code, toy data, a test and a card."""
    from vlynx_pl.commands.new_modality import new_modality as write

    write(name, out)


def _check_environment() -> None:
    """Raise UserError for a launcher's variable that is not a number, as libraries parse them."""
    for name in _LAUNCHER_NUMBERS:
        if not (value := os.environ.get(name) or "0").isdecimal():
            raise UserError(f"the environment has {name}={value}, which is not a number; unset it")


def main() -> None:
    """Entry point of ``vlynx``: errors that a user can fix are one message, not a traceback."""
    # Waiting OpenMP threads must not spin: on a busy machine that costs ten times the work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A configuration may name classes in the working directory, as with python -m.
    sys.path.append(str(Path.cwd()))
    for stream in (sys.stdout, sys.stderr):  # file names may contain bytes that are not UTF-8
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_environment()
        app()
    except Interrupted as stop:
        if stop.code:  # of several processes, only the first prints
            Console(stderr=True).print(f"\n[bold]{escape(str(stop))}[/]", soft_wrap=True)
        raise
    except (UserError, ImportError, OSError) as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
