"""Adapters go to a hub and come back; the hub is a stub behind huggingface_hub's HTTP client."""

import base64
import json
from hashlib import sha1
from pathlib import PurePosixPath

import httpx2
import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard

from tests.vlynx_pl.conftest import config_of, load_miniature, tuning
from vlynx_pl.adapters import Lora, save_adapter
from vlynx_pl.saved_adapters import saved_config

REPOSITORY = "someone/depth"
URL = f"https://huggingface.co/{REPOSITORY}"
COMMIT = "0123456789012345678901234567890123456789"


class StubHub:
    """A hub with one repository, in memory."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.created: dict[str, object] = {}
        self.status = 200

    def __call__(self, request):
        path = request.url.path
        assert request.url.host == "huggingface.co"
        if self.status != 200:
            return httpx2.Response(self.status, json={"error": "no"}, request=request)
        answer = self._download if "/resolve/" in path else self._api
        return answer(request, path)

    def _api(self, request, path):
        said: dict[str, object] = {}
        if path.endswith("/repos/create"):
            self.created = json.loads(request.content)
            said = {
                "url": f"https://huggingface.co/{REPOSITORY}",
                "id": REPOSITORY,
                "name": REPOSITORY,
            }
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(request.content)["files"]]
            said = {"files": [{"path": n, "uploadMode": "regular"} for n in names]}
            for file in said["files"]:
                file["shouldIgnore"] = False
        elif "/commit/" in path:
            for line in map(json.loads, request.content.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            said = {"commitUrl": f"{URL}/commit/{COMMIT}", "commitOid": COMMIT}
        elif "/tree/" in path:
            files = [
                {
                    "type": "file",
                    "path": name,
                    "size": len(content),
                    "oid": sha1(content).hexdigest(),
                }
                for name, content in self.files.items()
            ]
            return httpx2.Response(200, json=files, request=request)
        elif "validate-yaml" not in path:
            siblings = [{"rfilename": name} for name in self.files]
            said = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}
        return httpx2.Response(200, json=said, request=request)

    def _download(self, request, path):
        content = self.files[path.partition(f"/resolve/{COMMIT}/")[2]]
        told = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{sha1(content).hexdigest()}"',
            "Content-Length": str(len(content)),
        }
        sent = b"" if request.method == "HEAD" else content
        return httpx2.Response(200, content=sent, headers=told, request=request)


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_stub")
    stub = StubHub()
    client = lambda: httpx2.Client(transport=httpx2.MockTransport(stub))  # noqa: E731
    huggingface_hub.set_client_factory(client)
    yield stub
    huggingface_hub.set_client_factory(huggingface_hub.utils._http.default_client_factory)


NOTES = {
    "backbone": "experiments/miniature",
    "frames": {},
    "data": "8 train clips",
    "modules": {"vision": "model.vision_tower", "llm": "model.language_model"},
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An alignment, and a tuned run that reads its adapter, with much that is not to be shared."""
    root = tmp_path_factory.mktemp("runs")
    backbone = load_miniature()
    backbone.add_vision_adapter("3d", Lora(4, 8))
    notes = NOTES | {"fingerprint": backbone.fingerprint}
    aligned = root / "aligned" / "adapters" / "vision-3d"
    save_adapter(backbone.vision_adapters, "3d", aligned, notes)
    tuned = root / "tuned"
    module = tuning()
    module.save_adapters(tuned / "adapters", notes | {"reads": {"3d": {"adapter": "a"}}})
    config = config_of("DepthDataModule", "3d")
    config["model"]["init_args"]["streams"]["init_args"]["modalities"] = {"3d": str(aligned)}
    write(tuned / "config.yaml", yaml.safe_dump(config))
    scores = {"scanqa/em1": 50.0, "scanqa/n_total": 2, "intervals": {"scanqa/em1": [25, 75]}}
    write(tuned / "scores-val.json", json.dumps(scores))
    unfinished = "adapters/.llm-qa.1.unfinished/a.json"
    for name in ("predictions-val.jsonl", "checkpoints/step-1.ckpt", unfinished):
        write(tuned / name, "{}")
    write(tuned / "adapters" / "llm-qa" / "training_args.bin", "secret")
    write(tuned / "adapters" / "usual.safetensors", "of a reduction")
    return root


def test_adapters_come_back_as_they_were_and_nothing_else_is_shared(vlynx, hub, finished, tmp_path):
    code, said = vlynx("push", finished / "tuned", REPOSITORY, "--licence=mit")
    assert code == 0 and f"10 files are at {URL}" in said, said
    assert hub.created["visibility"] == "private"
    each = {"adapter_config.json", "adapter_model.safetensors", "made_with.json", "README.md"}
    folders = ("adapters/llm-qa", "adapters/vision-3d")
    every = {f"{f}/{name}" for f in folders for name in each}
    assert hub.files.keys() == {"README.md", "adapters/usual.safetensors"} | every
    front = ModelCard(hub.files["README.md"].decode())
    assert "| `scanqa/em1` | 50.00 | [25.00, 75.00] |" in front.text and front.data.license == "mit"

    for hostile in ("adapters/../../evil.json", "adapters/llm-qa/evil.py", "evil.bin", "a/b.json"):
        hub.files[hostile] = b"{}"
    pulled = tmp_path / "new" / "pulled"
    code, said = vlynx("pull", REPOSITORY, pulled)
    assert code == 0 and "vision-3d" in said and saved_config(pulled / folders[0]).config.r == 4
    there = {path.relative_to(pulled).as_posix() for path in pulled.rglob("*") if path.is_file()}
    shared = {name for name in hub.files if PurePosixPath(name).stem != "evil"}
    assert there == shared - {"a/b.json"}
    assert not list(tmp_path.rglob("evil*"))
    for run, folder in (("tuned", folders[0]), ("aligned", folders[1])):
        one, other = (f / folder / "adapter_model.safetensors" for f in (finished / run, pulled))
        assert one.read_bytes() == other.read_bytes()
    backbone = load_miniature()
    backbone.load_vision_adapter("3d", backbone.saved_adapter(pulled / folders[1]))
    code, said = vlynx("pull", REPOSITORY, pulled)
    assert code == 1 and "exists; give a new folder" in said


def test_what_cannot_be_pushed_is_refused_by_name(vlynx, hub, finished, tmp_path, monkeypatch):
    code, said = vlynx("push", finished / "aligned", REPOSITORY)
    assert code == 1 and "aligned has no results for a card" in said
    write(tmp_path / "report.json", "{}")
    code, said = vlynx("push", tmp_path, REPOSITORY)
    assert code == 1 and "has no adapters" in said
    hub.status = 403
    code, said = vlynx("push", finished / "tuned", REPOSITORY)
    assert code == 1 and "someone/depth: " in said and "check the name, your token" in said
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    code, said = vlynx("push", finished / "tuned", REPOSITORY)
    assert code == 1 and "there is no token" in said and "hf auth login" in said
    assert not hub.files and not hub.created


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model.safetensors": b"", "adapters/llm-qa/run.py": b""}, "has no adapters"),
        ({"adapters/llm-qa/adapter_config.json": b'{"peft_type": "IA3"}'}, "is not supported"),
        ({"adapters/llm-qa/adapter_config.json": b"["}, "is not a PEFT adapter"),
    ],
)
def test_what_is_not_an_adapter_leaves_nothing(vlynx, hub, tmp_path, files, reason):
    hub.files |= files
    code, said = vlynx("pull", REPOSITORY, tmp_path / "pulled")
    assert code == 1 and reason in " ".join(said.split()), said
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_cannot_be_read_is_named(vlynx, hub, tmp_path):
    hub.status = 404
    code, said = vlynx("pull", REPOSITORY, tmp_path / "pulled")
    assert code == 1 and "someone/depth: " in said and list(tmp_path.iterdir()) == []
    code, said = vlynx("pull", "not a name", tmp_path / "pulled")
    assert code == 1 and "not a name: " in said
