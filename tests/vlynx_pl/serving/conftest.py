"""Tuned runs that are served on this computer, without fitting them."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
import yaml

from tests.datamodules.conftest import write_scannet_scene, write_scannet_scenes, write_scanqa
from tests.processes import wait_until
from tests.vlynx_pl.conftest import film, load_miniature, randomise, write_run
from vlynx_pl.adapters import Lora, save_adapter
from vlynx_pl.commands.serving import served_run
from vlynx_pl.serving.limits import Limits
from vlynx_pl.serving.sessions import ServedRun

QUESTION = "Is it loud, and what shape is the red object?"


class Client:
    """Asks a server.

    Args:
        url: of the server.
        app: for looking into it.
    """

    def __init__(self, url: str, app: Any) -> None:
        self.url, self.service = url, app.state.service

    def post(self, path: str, content: object, **options: Any) -> requests.Response:
        body = content if isinstance(content, bytes) else json.dumps(content)
        return requests.post(self.url + path, data=body, **options)

    def upload(self, path: Path, **options: Any) -> requests.Response:
        with path.open("rb") as file:
            return requests.post(f"{self.url}/v1/files", files={"file": file}, **options)

    def sent(self, path: Path) -> str:
        """The id of a file that is accepted."""
        response = self.upload(path)
        assert response.status_code == 200, response.text
        return response.json()["id"]


def asking(model: str, question: str = QUESTION, *, sample: str | None = None, **urls: str):
    """A request about a clip: kind → URL."""
    parts = [{"type": f"{kind}_url", f"{kind}_url": {"url": url}} for kind, url in urls.items()]
    if sample is not None:
        parts.append({"type": "sample", "sample": sample})
    content = [*parts, {"type": "text", "text": question}]
    return {"model": model, "messages": [{"role": "user", "content": content}]}


def said(response: requests.Response) -> str:
    """The answer of a completion."""
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def error(response: requests.Response) -> str:
    """The message of an error of the client."""
    assert 400 <= response.status_code < 500, response.text
    return response.json()["error"]["message"]


@contextmanager
def serving(*runs: ServedRun, token: str | None = None, **limits: float) -> Iterator[Client]:
    """Serve runs at any free port."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("python_multipart")
    app = pytest.importorskip("vlynx_pl.serving.app").make_app(
        runs, replace(Limits(), **limits), token
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    [listening] = server.servers[0].sockets
    try:
        yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}", app)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def talkative(tmp_path_factory) -> Path:
    """The folder of an LLM adapter that makes the miniature talk at length."""
    folder = tmp_path_factory.mktemp("adapters") / "llm-qa"
    backbone = load_miniature()
    backbone.add_llm_adapter("qa", Lora(8, 16))
    randomise(backbone.llm_adapters, "qa", 0.14)
    save_adapter(backbone.llm_adapters, "qa", folder)
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory, talkative) -> dict[str, ServedRun]:
    """Runs named ``hears``, ``sees`` (with samples) and ``wears``."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "hears", talkative, "AudioDataModule", "audio", window=0.5)
    write_run(folder / "wears", talkative, "EgoDataModule", "ego")
    write_scannet_scenes(folder, 2)
    write_scanqa(folder, "val", [(0, "one", "What is grey?"), (1, "two", "Where is it?")])
    write_run(folder / "sees", talkative, "DepthDataModule", "3d")
    config = yaml.safe_load((folder / "sees" / "config.yaml").read_text())
    config["data"]["init_args"] |= {
        "root": str(folder),
        "test_split": "val",
        "benchmark": {
            "class_path": "datamodules.benchmarks.ScanQA",
            "init_args": {"annotations": str(folder)},
        },
    }
    (folder / "sees" / "config.yaml").write_text(yaml.safe_dump(config))
    limits = Limits(seconds=8, reading=60)
    return {name: served_run(folder / name, limits) for name in ("hears", "sees", "wears")}


@pytest.fixture(scope="session")
def media(tmp_path_factory) -> dict[str, Path]:
    """A video with sound, another one, and a zip of a scene."""
    folder = tmp_path_factory.mktemp("media")
    scene = write_scannet_scene(folder / "scene0000_00")
    with zipfile.ZipFile(folder / "scene.zip", "w") as archive:
        for path in sorted(scene.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return {
        "video": film(folder / "clip.mp4"),
        "other": film(folder / "other.mp4", level=90),
        "depth": folder / "scene.zip",
        "scene": scene,
    }


@pytest.fixture(scope="module")
def server(runs) -> Iterator[Client]:
    """A server of all runs."""
    with serving(*runs.values()) as client:
        yield client
