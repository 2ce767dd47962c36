"""A server under load: how long questions take, whether any is lost, and whether its memory grows.

``python -m experiments.speed.serving RUN CLIP…`` starts ``vlynx serve`` with a tuned run. Each clip
is a video, or a zip of a scene. First every clip is asked two questions, one after the other. Then
rounds of simultaneous questions follow, after each of which the memory of the server is read.
"""

import argparse
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import requests
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table


class Server:
    """``vlynx serve`` in a process of its own.

    Args:
        run: folder of a tuned run.
        memory: MiB for the clips that it keeps.
    """

    def __init__(self, run: Path, memory: int = 4096) -> None:
        command = [sys.executable, "-m", "vlynx_pl.commands.cli", "serve", "--port=0"]
        command += [f"--run={run}", f"--memory={memory}"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            if found := re.search(r"http://\S+", line):
                self.url = found[0]
                return
            said += line
        sys.exit(f"{said}The server ended with {self.process.wait()}")

    @property
    def memory(self) -> float:
        """MiB that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def upload(self, clip: Path) -> dict[str, Any]:
        """Send a clip; return it as a part of a message."""
        with clip.open("rb") as file:
            response = requests.post(f"{self.url}/v1/files", files={"file": file}, timeout=600)
        response.raise_for_status()
        kind = "depth_url" if clip.suffix == ".zip" else "video_url"
        return {"type": kind, kind: {"url": response.json()["id"]}}

    def ask(self, model: str, part: dict[str, Any], question: str) -> float:
        """Return the s that an answer takes."""
        content = [part, {"type": "text", "text": question}]
        request = {"model": model, "messages": [{"role": "user", "content": content}]}
        begun = time.perf_counter()
        response = requests.post(f"{self.url}/v1/chat/completions", json=request, timeout=600)
        response.raise_for_status()
        return time.perf_counter() - begun


def main() -> None:
    """Measure a server, print a table and draw its memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--simultaneous", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--picture", type=Path, default=Path("serving.png"))
    parser.add_argument("--memory", type=int, default=4096, help="MiB for the clips it keeps")
    options = parser.parse_args()
    model, server = options.run.resolve().name, Server(options.run, options.memory)
    try:
        parts = [server.upload(clip) for clip in options.clips]
        pairs = [
            [server.ask(model, part, question) for question in ("What is there?", "Where is it?")]
            for part in parts
        ]
        first, second = (median(times) for times in zip(*pairs, strict=True))
        times: list[float] = []
        memory = [server.memory]
        with ThreadPoolExecutor(options.simultaneous) as clients:
            for number in track(range(options.rounds), "Asking"):
                asked = [
                    clients.submit(
                        server.ask, model, parts[i % len(parts)], f"What is number {number}, {i}?"
                    )
                    for i in range(options.simultaneous)
                ]
                times += [one.result() for one in asked]
                memory.append(server.memory)
    finally:
        server.process.terminate()
    table = Table("measured", "value")
    table.add_row("first question about a clip", f"{first:.2f} s")
    table.add_row("second question", f"{second:.2f} s, {first / second:.1f} x as fast")
    answered = f"{len(times)} of {options.rounds * options.simultaneous}"
    table.add_row(f"answered, {options.simultaneous} at a time", answered)
    cuts = quantiles(times, n=20)
    table.add_row("p50 and p95", f"{cuts[9]:.2f} s and {cuts[18]:.2f} s")
    table.add_row("memory before and after", f"{memory[0]:.0f} and {memory[-1]:.0f} MiB")
    Console().print(table)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([i * options.simultaneous for i in range(len(memory))], memory, marker="o")
    axes.set(xlabel="simultaneous questions answered", ylabel="server's memory (MiB)")
    axes.set_ylim(0, 1.2 * max(memory))
    figure.savefig(options.picture, dpi=120)


if __name__ == "__main__":
    main()
