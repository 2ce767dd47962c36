"""What a server does with strangers: limits, hostile files, and who may ask."""

import asyncio
import os
import signal
import socket
import time
import zipfile
from base64 import b64encode
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BytesIO
from itertools import chain, repeat
from pathlib import Path
from random import Random
from threading import Event, Thread

import pytest
import requests

from datamodules.loading.given import limit_memory
from experiments.speed.serving import Server
from tests.processes import wait_until
from tests.robustness.damages import DAMAGES
from tests.robustness.inputs import Original, read_files
from tests.robustness.media_inputs import sounds, videos
from tests.vlynx_pl.conftest import film, write_run
from tests.vlynx_pl.serving.conftest import asking, error, said, serving
from vlynx_pl.commands.serving import read_apart, serve
from vlynx_pl.io.errors import UserError
from vlynx_pl.serving.limits import MIB, Limits
from vlynx_pl.serving.loopback import is_loopback
from vlynx_pl.serving.sessions import ServedRun

HOSTILE_NAMES = ("../../../tmp/a.jpg", "/etc/passwd", "..\\..\\a.jpg", "9" * 300 + ".jpg")


def folder_of(server) -> list[str]:
    """What is in the server's folder beside uploads."""
    names = [path.name for path in server.service.uploads.folder.iterdir()]
    return [name for name in names if "." in name]


@contextmanager
def waiting(run: ServedRun, **limits):
    """A server whose run begins and ends to read with events: yields it and the two."""
    begun, end = Event(), Event()

    def read(*given):
        begun.set()
        end.wait()
        return run.read(*given)

    with serving(ServedRun(run.name, run.module, read, run.samples), **limits) as server:
        try:
            yield server, begun, end
        finally:
            end.set()


def test_a_file_whose_request_was_cancelled_counts():
    """The thread that writes it cannot be cancelled."""
    pytest.importorskip("fastapi")
    from vlynx_pl.serving.uploads import Uploads

    class Slow(BytesIO):
        begun, go_on = Event(), Event()

        def read(self, size=-1):
            self.begun.set()
            self.go_on.wait()
            return super().read(size)

    async def cancelled(source):
        task = asyncio.create_task(asyncio.to_thread(uploads.store, source, "first"))
        await asyncio.to_thread(source.begun.wait)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        source.go_on.set()

    limits = replace(Limits(), upload=1)
    uploads = Uploads(limits)
    asyncio.run(cancelled(Slow(b"a")))  # which waits for the thread
    [first] = uploads.folder.iterdir()
    others = [uploads.store(BytesIO(bytes([i])), "later").path for i in range(limits.stored)]
    assert {*uploads.folder.iterdir()} == {*others} and first not in others
    uploads.close()


def test_no_url_is_fetched_and_no_path_opened(server, media):
    here = media["video"]
    for url in (
        "http://127.0.0.1:1/a.mp4", f"file://{here}", str(here), "../a", "file-../../etc/passwd",
        "data:video/mp4,abc", "data:video/mp4;base64,###", "",
    ):  # fmt: skip
        response = server.post("/v1/chat/completions", asking("hears", video=url))
        assert (
            "neither" in error(response)
            or "base64" in error(response)
            or "no file" in error(response)
        )
    assert not folder_of(server)


def test_files_that_cannot_be_read_are_named_and_the_server_lives(server, media, tmp_path):
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(os.urandom(50_000))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(media["video"].read_bytes()[:-900])
    mute, long = film(tmp_path / "mute.mp4", sound=False), film(tmp_path / "long.mp4", seconds=9)
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    for kind, path, message in (
        ("video", noise, "video: cannot be read as video or sound"),
        ("video", cut, "video: is cut off"),
        ("video", playlist, "video: cannot be read as video or sound"),
        ("video", mute, "video: has no sound track"),
        ("video", long, "video: lasts 9 s; 8 s are accepted. Cut it"),
        ("video", media["depth"], "video: cannot be read as video or sound"),
        ("audio", media["video"], "hears needs video, a video file; add it"),
        ("depth", media["depth"], "hears needs video"),
        ("depth", media["video"], "depth: is not a zip file that can be read"),
    ):
        response = server.post("/page/clip", asking("hears", **{kind: server.sent(path)}))
        assert message in error(response)
        assert "/tmp" not in error(response) and not folder_of(server)
    both = {"depth": server.sent(media["depth"]), "video": server.sent(media["video"])}
    assert "sees does not use video" in error(server.post("/page/clip", asking("sees", **both)))
    assert said(server.post("/v1/chat/completions", asking("hears", video=both["video"])))


def test_too_much_is_refused(runs, media, tmp_path):
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(3 * MIB))
    with serving(runs["hears"], upload=MIB) as server:
        assert server.upload(large).status_code == 413
        assert "larger than 2 MiB" in error(server.upload(large))
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        pieces = chain([head], repeat(bytes(2**16), 80))  # of a length that no header states
        assert "larger than 2 MiB" in error(
            requests.post(
                f"{server.url}/v1/files",
                pieces,
                headers={"Content-Type": "multipart/form-data; boundary=x"},
            )
        )
        large.write_bytes(bytes(MIB + 1))
        assert "the file is larger than 1 MiB" in error(server.upload(large))
        (tmp_path / "empty").touch()
        assert "the file is empty" in error(server.upload(tmp_path / "empty"))
        assert "larger" in error(server.post("/page/clip", b"[" * (3 * MIB)))
        assert "has no file" in error(requests.post(f"{server.url}/v1/files", {"file": "name"}))
        assert not any(server.service.uploads.folder.iterdir())


def test_old_files_make_room(runs, tmp_path):
    with serving(runs["hears"], upload=1000) as server:
        ids = []
        for number in range(12):
            path = tmp_path / f"{number}.bin"
            path.write_bytes(bytes([number]) * 900)
            ids.append(server.sent(path))
        found = [requests.get(f"{server.url}/v1/files/{name}").status_code for name in ids]
        assert found == [404] * 4 + [200] * 8
        assert len(list(server.service.uploads.folder.iterdir())) == 8


def test_a_full_queue_says_when_to_try_again(runs, media):
    with waiting(runs["hears"], queue=1) as (server, begun, end):
        asked = asking("hears", video=server.sent(media["video"]))
        answers = []
        first = Thread(target=lambda: answers.append(server.post("/v1/chat/completions", asked)))
        first.start()
        begun.wait()
        response = server.post("/v1/chat/completions", asked)
        assert response.status_code == 429 and response.headers["Retry-After"] == "1"
        assert "1 requests are under way" in error(response)
        assert requests.get(f"{server.url}/v1/models").status_code == 200
        end.set()
        first.join()
        assert said(answers[0])


def test_a_request_that_takes_too_long_ends_and_others_go_on(runs, media):
    with waiting(runs["hears"], timeout=1) as (server, *_):
        # Within the request, as an upload of its own may take longer than a second, too.
        content = b64encode(media["video"].read_bytes()).decode()
        asked = asking("hears", video=f"data:video/mp4;base64,{content}")
        response = server.post("/v1/chat/completions", asked)
        assert response.status_code == 504 and "no answer within 1 s" in response.text
        assert requests.get(f"{server.url}/page/models").status_code == 200


@pytest.mark.parametrize(
    ("path", "form"), [("/v1/files", "multipart/form-data; boundary=x"), ("/page/clip", "text")]
)
def test_a_cut_connection_leaves_its_place_and_no_file(runs, path, form):
    with serving(runs["hears"], queue=1) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {form}\r\n"
            connection.sendall(f"{head}Content-Length: 90000\r\n\r\n--x\r\n".encode())
            wait_until(lambda: server.post("/page/clip", {}).status_code == 429)
        wait_until(lambda: server.post("/page/clip", {}).status_code == 400)
        assert not any(server.service.uploads.folder.iterdir())


def test_only_those_with_the_token_may_ask(runs):
    with serving(runs["hears"], token="a secret") as server:
        url = f"{server.url}/v1/models"
        assert "send the token" in error(requests.get(url))
        assert requests.get(url, headers={"Authorization": "Bearer other"}).status_code == 401
        assert requests.get(url, headers={"Authorization": "Bearer a secret"}).status_code == 200
        assert requests.get(server.url).status_code == 200
        assert requests.post(f"{server.url}/page/ask").status_code == 401


def test_pages_of_other_sites_may_not_ask(server):
    url = f"{server.url}/v1/models"
    assert requests.get(url, headers={"Origin": server.url}).status_code == 200
    for origin in ("https://other.org", "null", "http://[x"):
        message = error(requests.get(url, headers={"Origin": origin}))
        assert f"pages of {origin} are not answered" in message
    for host in ("other.org", "[x", "127.0.0.1.other.org", "10.0.0.1:8000"):
        message = error(requests.get(url, headers={"Host": host}))
        assert f"{host} is not a name of this server" in message


def test_other_addresses_need_a_token(tmp_path):
    assert is_loopback("::1") and is_loopback("localhost") and is_loopback("127.0.0.2")
    for host in ("0.0.0.0", "192.168.0.7", "example.org"):
        with pytest.raises(UserError, match=rf"--host {host} lets other computers ask"):
            serve([tmp_path], host, 0, None, Limits())


def test_only_the_names_that_several_runs_share_are_said(tmp_path):
    runs = [tmp_path / place for place in ("a/audio", "b/audio", "a/3d", "a/ego", "b/ego")]
    with pytest.raises(UserError, match="several folders are named audio, ego, and"):
        serve(runs, "127.0.0.1", 0, None, Limits())


@pytest.mark.slow
def test_the_command_serves_until_it_is_asked_to_stop(tmp_path, talkative, media, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    server = Server(write_run(tmp_path / "hears", talkative, "AudioDataModule", "audio"))
    try:
        part = server.upload(media["video"])
        assert server.ask("hears", part, "Is it loud?") > 0
        assert len([*(tmp_path / "temporary").glob("vlynx-serve-*/*")]) == 1
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait() == 0
    finally:
        server.process.kill()
    assert not [*(tmp_path / "temporary").glob("vlynx-serve-*")]


def hang(clip):
    time.sleep(10_000)


def die(clip):
    os.abort()


def eat(clip):
    limit_memory(2**28)
    return bytes(2**30)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (hang, "the clip needs more than 2 s or 4 GiB to be read"),
        (die, "or breaks its decoder; convert it"),
        (eat, "not enough memory"),
    ],
)
def test_a_clip_that_breaks_its_reader_is_one_error(read, message, media):
    with pytest.raises(UserError, match=message):
        read_apart(read, 2 if read is hang else 60, media["video"].parent, {})


def hostile(random: Random, recordings: list[Original], scene: Path) -> tuple[str, bytes]:
    """A kind of file, and something damaged or hostile to send as one."""
    if random.random() < 0.5:
        original = random.choice(recordings)
        damage = random.choice([*DAMAGES[original.kind].values()])
        content = damage(random, original, recordings)
        return "video" if original.kind == "video" else "audio", content
    files = read_files(scene)
    each = [Original("image", name, dict(files), ()) for name in sorted(files)]
    original = random.choice(each)
    damage = random.choice([*DAMAGES["image"].values(), *DAMAGES["matrix"].values()])
    files[original.name] = damage(random, original, each)
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        for path, content in files.items():
            made.writestr(path, content)
        match random.randrange(5):
            case 0:
                made.writestr(f"color/{random.choice(HOSTILE_NAMES)}", b"x")
            case 1:
                made.writestr("color/9.jpg", bytes(2**27))  # a bomb
    content = archive.getvalue()
    if random.random() < 0.3:
        damage = random.choice([*DAMAGES["frame cache"].values()])
        broken = Original("frame cache", "a.zip", {"a.zip": content}, ())
        content = damage(random, broken, [broken, original])
    return "depth", content


@pytest.mark.slow
def test_two_hundred_hostile_uploads_are_refused_one_by_one(runs, media, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    recordings, refused = [*videos(), *sounds()], 0
    with serving(runs["hears"], runs["sees"], upload=16 * MIB) as server:
        own = server.service.uploads.folder
        good = asking("hears", video=server.sent(media["video"]))
        expected = said(server.post("/v1/chat/completions", good))
        for seed in range(200):
            kind, content = hostile(Random(seed), recordings, media["scene"])
            name = Random(seed).choice(("clip.mp4", "../../../../tmp/a.mp4", "/etc/passwd", "a\nb"))
            sent = requests.post(f"{server.url}/v1/files", files={"file": (name, content or b"x")})
            assert sent.status_code == 200, sent.text
            urls = {kind: sent.json()["id"]}
            if kind == "audio":
                urls["video"] = server.sent(media["video"])
            model = "sees" if kind == "depth" else "hears"
            response = server.post("/page/clip", asking(model, **urls))
            if response.status_code != 200:  # some damages change nothing that is read
                assert response.status_code == 400 and error(response)
                assert str(tmp_path) not in error(response)
                refused += 1
            assert not folder_of(server)
        assert said(server.post("/v1/chat/completions", good)) == expected
        assert [*(tmp_path / "temporary").iterdir()] == [own]
    assert refused > 100
    assert not any((tmp_path / "temporary").iterdir())
