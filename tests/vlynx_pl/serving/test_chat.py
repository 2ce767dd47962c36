"""Questions to a server, by a stock client and over HTTP."""

from base64 import b64decode, b64encode
from io import BytesIO

import numpy as np
import pytest
import requests
import torch
from PIL import Image

from tests.vlynx_pl.serving.conftest import QUESTION, asking, error, said, serving
from vlynx_pl.answering import answer
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.questions import Question
from vlynx_pl.serving import sessions


@pytest.fixture(scope="module")
def client(server):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def own_answer(run, folder, question=QUESTION, history=(), without=(), **files) -> str:
    """What the run answers without a server."""
    module = run.module
    given = folder / "given"
    given.mkdir(exist_ok=True)
    for kind, path in files.items():
        (given / kind).write_bytes(path.read_bytes())
    frames = run.read(given, {kind: given / kind for kind in files})
    clip = module.encoded_clip({"streams": frames.streams, "times": frames.times})
    with torch.inference_mode():
        read = module.streams.without(without, clip)
    asked = [Question("q", question, (), history)]
    [said] = answer(module.backbone, read, asked, llm_adapter=module.task)
    return said


def test_a_stock_client_is_answered_as_the_run_answers(server, client, runs, media, tmp_path):
    assert [model.id for model in client.models.list()] == ["hears", "sees", "wears"]
    file = client.files.create(file=media["video"], purpose="user_data")
    assert client.files.retrieve(file.id).filename == "clip.mp4"
    request = asking("hears", video=file.id, audio=server.sent(media["other"]))
    begun = client.chat.completions.create(**request, logprobs=True, max_tokens=3)
    [choice] = begun.choices
    expected = own_answer(runs["hears"], tmp_path, video=media["video"], audio=media["other"])
    assert choice.message.content and expected.startswith(choice.message.content)
    assert len(choice.logprobs.content) == begun.usage.completion_tokens == 3
    assert choice.finish_reason == "length" and begun.usage.prompt_tokens > 96
    assert choice.message.content.startswith(choice.logprobs.content[0].token)
    assert all(one.logprob < 0 for one in choice.logprobs.content)
    [whole] = client.chat.completions.create(**request).choices
    chunks = [*client.chat.completions.create(**request, stream=True)]
    deltas = [chunk.choices[0].delta.content for chunk in chunks]
    assert "".join(deltas) == whole.message.content == expected
    assert len(list(filter(None, deltas))) > 5
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason
    assert client.files.delete(file.id).deleted
    with pytest.raises(Exception, match="there is no file"):
        client.chat.completions.create(**request)


def test_a_data_url_is_as_good_as_an_upload_and_a_dialogue_goes_on(server, runs, media, tmp_path):
    content = b64encode(media["video"].read_bytes()).decode()
    request = asking("hears", video=f"data:video/mp4;base64,{content}")
    first = said(server.post("/v1/chat/completions", request))
    assert first == own_answer(runs["hears"], tmp_path, video=media["video"])
    turns = [{"role": "assistant", "content": first}, {"role": "user", "content": "Why?"}]
    request["messages"] += turns
    second = said(server.post("/v1/chat/completions", request))
    assert second == own_answer(
        runs["hears"], tmp_path, "Why?", ((QUESTION, first),), video=media["video"]
    )


def test_options_that_would_not_change_the_most_likely_answer_are_ignored(server, media):
    request = asking("hears", video=server.sent(media["video"]))
    ignored = {"seed": 3, "top_p": 0.1, "user": "me", "metadata": {"a": "b"}, "store": True}
    ignored |= {"service_tier": "flex", "stream_options": {"include_usage": True}}
    path = "/v1/chat/completions"
    assert said(server.post(path, request)) == said(server.post(path, request | ignored))
    streamed = server.post(path, request | ignored | {"stream": True})
    assert streamed.status_code == 200 and "usage" not in streamed.text


def test_a_separate_sound_and_a_stream_left_out_change_the_answer(server, runs, media, tmp_path):
    video, sound = media["video"], media["other"]
    urls = {"video": server.sent(video), "audio": server.sent(sound)}
    both = said(server.post("/v1/chat/completions", asking("hears", **urls)))
    assert both == own_answer(runs["hears"], tmp_path, video=video, audio=sound)
    request = asking("hears", **urls) | {"without": ["audio"]}
    alone = said(server.post("/v1/chat/completions", request))
    assert alone != both
    assert alone == own_answer(runs["hears"], tmp_path, video=video, without={"audio"})


def test_a_zip_of_a_scene_and_two_views_are_read(server, runs, media, tmp_path):
    asked = asking("sees", depth=server.sent(media["depth"]))
    expected = own_answer(runs["sees"], tmp_path, depth=media["depth"])
    assert said(server.post("/v1/chat/completions", asked)) == expected
    views = {"video": media["video"], "ego": media["other"]}
    asked = asking("wears", **{kind: server.sent(path) for kind, path in views.items()})
    expected = own_answer(runs["wears"], tmp_path, **views)
    assert said(server.post("/v1/chat/completions", asked)) == expected


def test_further_questions_about_a_clip_neither_read_nor_encode_it(
    runs, media, monkeypatch, tmp_path
):
    other = own_answer(runs["hears"], tmp_path, "Why?", video=media["video"])
    done = []

    def counting(name, function):
        return lambda *a, **k: done.append(name) or function(*a, **k)

    run = runs["hears"]
    monkeypatch.setattr(VideoBackbone, "encode", counting("encode", VideoBackbone.encode))
    monkeypatch.setattr(sessions, "SharedCache", counting("prefix", sessions.SharedCache))
    reading = type(run)(run.name, run.module, counting("read", run.read), run.samples)
    with serving(reading) as server:
        first = asking("hears", video=server.sent(media["video"]))
        once = said(server.post("/v1/chat/completions", first))
        assert done == ["read", "encode", "encode", "prefix"]
        again = asking("hears", "Why?", video=server.sent(media["video"]))
        assert said(server.post("/v1/chat/completions", again)) == other
        assert said(server.post("/v1/chat/completions", first)) == once
        assert len(done) == 4
        said(server.post("/v1/chat/completions", first | {"without": ["audio"]}))
        assert done[4:] == ["prefix"]


def test_the_session_used_least_recently_makes_room(runs, media):
    run, reads = runs["hears"], []
    reading = type(run)(
        run.name, run.module, lambda *a: reads.append(a) or run.read(*a), run.samples
    )
    with serving(reading) as server:
        urls = [server.sent(media[name]) for name in ("video", "other")]
        asked = [asking("hears", video=url) | {"max_tokens": 1} for url in urls]
        first = said(server.post("/v1/chat/completions", asked[0]))
        held = server.service.held
    del reads[:]
    with serving(reading, memory=held) as server:
        assert urls == [server.sent(media[name]) for name in ("video", "other")]
        for number in (0, 0, 1, 0):
            last = said(server.post("/v1/chat/completions", asked[number]))
            assert 0 < server.service.held <= held
        assert last == first and len(reads) == 3


def test_what_cannot_be_followed_is_refused_by_name(server, media):
    clip = {"video": server.sent(media["video"])}
    good = asking("hears", **clip)
    text = {"type": "text", "text": "Why?"}
    part = good["messages"][0]["content"][0]
    answered = {"role": "assistant", "content": "Yes."}
    for change, message in (
        ({"temperature": 0.7}, "temperature: answers are the most likely ones"),
        ({"tools": []}, "tools: Extra inputs are not permitted"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"model": "none"}, "there is no model 'none'; there are hears, sees, wears"),
        ({"without": ["3d"]}, "without '3d': of hears, video, audio can be left out"),
        ({"without": ["video", "audio"]}, "without every stream there is nothing"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages.0.role: Input"),
        ({"messages": [{"role": "user", "content": [text]}]}, "has no clip, or several"),
        ({"messages": [{"role": "user", "content": [part]}]}, "a message has no text"),
        ({"messages": [{"role": "user", "content": [part, part, text]}]}, "two video parts"),
        ({"messages": good["messages"] * 2}, "messages must alternate"),
        ({"messages": [*good["messages"], answered]}, "end with a question"),
        (
            {"messages": [*good["messages"], answered, *good["messages"]]},
            "put the clip into the first message",
        ),
        (
            {"messages": [{"role": "user", "content": [part | {"text": "?"}]}]},
            "a part of this type has the field 'video_url', and no other",
        ),
        (
            {"messages": asking("hears", "A <|im_end|> in it", **clip)["messages"]},
            "which structures the prompt",
        ),
        ({"messages": asking("hears", "why " * 4999, **clip)["messages"]}, "tokens; hears reads"),
        ({"messages": asking("hears", sample="none")["messages"]}, "has no sample 'none'"),
    ):
        response = server.post("/v1/chat/completions", good | change)
        assert message in error(response)
    assert "Invalid JSON" in error(server.post("/v1/chat/completions", b"{"))
    assert said(server.post("/v1/chat/completions", good | {"temperature": 0, "seed": 1}))


def test_the_page_gets_frames_two_answers_and_a_picture(server, runs, media, tmp_path):
    files = {"video": media["video"], "audio": media["other"]}
    request = asking("hears", **{kind: server.sent(path) for kind, path in files.items()})
    shown = server.post("/page/clip", request).json()["streams"]
    assert list(shown) == ["video", "audio"] and len(shown["video"]) == 3
    frames = runs["hears"].read(media["video"].parent, files)
    for name, stream in shown.items():
        assert [one["time"] for one in stream] == pytest.approx(frames.times[name])
        for one, pixels in zip(stream, frames.streams[name], strict=True):
            assert torch.equal(decoded(one["images"][0]), pixels)
    found = server.post("/page/ask", request | {"without": ["audio"]}).json()
    first, second = found["answers"]
    assert first["text"] == own_answer(runs["hears"], tmp_path, **files)
    alone = own_answer(runs["hears"], tmp_path, video=media["video"], without={"audio"})
    assert second["text"] == alone
    assert found["gain"] == pytest.approx(first["logprob"] - found["first_without"])
    assert abs(found["gain"]) > 0.1
    same = server.post("/page/ask", request).json()
    assert same["gain"] == pytest.approx(0, abs=1e-3) and same["answers"][0] == same["answers"][1]
    picture = server.post("/page/attention", request)
    assert picture.headers["content-type"] == "image/png" and picture.content[1:4] == b"PNG"
    for path in ("/", "/page.js", "/page.css"):
        page = requests.get(server.url + path)
        assert page.status_code == 200 and "default-src 'self'" in str(page.headers)


def test_clips_that_a_run_is_tested_on_are_samples(server, runs):
    hears, sees, _ = requests.get(f"{server.url}/page/models").json()
    assert not hears["samples"] and sees["streams"] == {"video": True, "3d": True}
    assert sees["samples"]["scene0001_00"] == [{"question": "Where is it?", "answers": ["grey"]}]
    shown = server.post("/page/clip", asking("sees", sample="scene0001_00")).json()
    assert list(shown["streams"]) == ["video", "3d"]
    request = asking("sees", sample="scene0001_00")
    assert said(server.post("/v1/chat/completions", request))


def decoded(url: str) -> torch.Tensor:
    content = b64decode(url.removeprefix("data:image/png;base64,"))
    return torch.from_numpy(np.array(Image.open(BytesIO(content)))).permute(2, 0, 1)
