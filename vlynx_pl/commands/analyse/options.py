"""The options of ``vlynx analyse`` and of its subcommands.

What a subcommand needs is imported when it runs, so that the small ones start at once.
"""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option, Typer
from typer.core import TyperGroup
from typing_extensions import override


class _RunOrSubcommand(TyperGroup):
    """``vlynx analyse RUN`` is short for ``vlynx analyse run RUN``."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


analyse = Typer(
    cls=_RunOrSubcommand,
    no_args_is_help=True,
    help="Measure and draw the token interface: vlynx analyse RUN, or one of these.",
)
Out = Annotated[Path | None, Option(help="folder of the results, else RUN/analysis")]


@analyse.command()
def run(
    folder: Annotated[Path, Argument(help="of an alignment, or of a tuned run", metavar="RUN")],
    frames: Annotated[int, Option(min=1, help="read of each stream, about")] = 2000,
    vocabulary: Annotated[int, Option(min=2, help="words in the geometry")] = 10_000,
    tsne: Annotated[bool, Option("--tsne", help="draw t-SNE too; needs scikit-learn")] = False,
    out: Out = None,
) -> None:
    """Measure and draw the streams of a run: geometry, landing, names and layers."""
    from vlynx_pl.commands.analyse.run import analyse_run

    analyse_run(folder, out or folder / "analysis", frames, vocabulary, tsne)


@analyse.command()
def guidance(
    files: Annotated[list[Path], Argument(help="guidance.safetensors of one backbone")],
    out: Annotated[Path, Option(help="folder of the results")] = Path("analysis"),
) -> None:
    """Compare guidance files, without a model: the paper's Table B2 and Figure B2."""
    from vlynx_pl.commands.analyse.guidance import compare

    compare(files, out)


@analyse.command()
def attention(
    tuned: Annotated[Path, Argument(help="folder of a tuned run")],
    questions: Annotated[int, Option(min=1, help="asked of the split that it is tested on")] = 6,
    against: Annotated[
        Path | None, Option(help="another tuned run that is tested on the same clips")
    ] = None,
    layers: Annotated[str, Option(help="of the LLM that are drawn, counted from 1")] = "1,2",
    rows: Annotated[
        str, Option(help="last token, mean of the question's words, or one word of it")
    ] = "words",
    out: Out = None,
) -> None:
    """Draw where a tuned run looks when it reads questions: the paper's Figure 4."""
    from vlynx_pl.commands.analyse.attention import analyse_attention, parse_layers

    folder, drawn = out or tuned / "analysis", parse_layers(layers)
    analyse_attention(tuned, folder, questions, against, drawn, rows)
