"""The page in a real Chromium: a clip, a question, both answers, and a file that is wrong."""

import shutil

import pytest
import requests

from tests.vlynx_pl.serving.conftest import QUESTION, asking, serving

pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 120  # no test depends on it

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="needs Chromium: apt-get install chromium chromium-driver",
    ),
]


class Page:
    """A page that is looked at."""

    def __init__(self, browser, url: str) -> None:
        self.browser = browser
        browser.get(url)

    def at(self, name: str):
        return self.browser.find_element(By.ID, name)

    def until(self, name: str, holds=lambda element: element.is_displayed()):
        """Wait until something holds of an element."""
        WebDriverWait(self.browser, PATIENCE_S).until(lambda _: holds(self.at(name)))
        return self.at(name)

    def send(self, path) -> None:
        self.at("files").send_keys(str(path))

    def ask(self, question: str) -> None:
        box = self.at("question")
        box.clear()
        box.send_keys(question + "\n")

    def choose_model(self, name: str) -> None:
        Select(self.at("model")).select_by_value(name)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(option)
    options.add_argument("--window-size=1100,1700")
    options.binary_location = shutil.which("chromium")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options, service) as driver:
        yield driver


@pytest.fixture
def page(browser, server):
    opened = Page(browser, server.url)
    WebDriverWait(browser, PATIENCE_S).until(
        lambda _: opened.at("model").find_elements(By.TAG_NAME, "option")
    )
    return opened


def test_a_clip_is_shown_and_asked_about_in_both_ways(page, server, media):
    page.send(media["video"])
    page.until("seen")
    shown = page.at("frames").find_elements(By.TAG_NAME, "figcaption")
    assert [one.text for one in shown] == ["video", "audio"]
    first = page.at("frames").find_element(By.TAG_NAME, "img").get_attribute("src")
    assert page.at("frame-label").text == "frame 1 of 3, 0.00 s"
    page.at("frame").send_keys("\ue014")  # the right arrow
    assert page.at("frame-label").text.startswith("frame 2 of 3")
    assert page.at("frames").find_element(By.TAG_NAME, "img").get_attribute("src") != first
    page.ask(QUESTION)
    page.until("answers")
    request = asking("hears", video=server.sent(media["video"])) | {"without": ["audio"]}
    one, other = server.post("/page/ask", request).json()["answers"]
    assert page.at("first").text == one["text"] and page.at("second").text == other["text"]
    assert page.at("second-title").text == "Without audio"
    assert f"log-probability −{-one['logprob']:.2f}" in page.at("first-figure").text
    assert "a difference of" in page.at("gain-text").text
    page.at("look").click()
    picture = page.until("attention")
    assert picture.get_attribute("naturalWidth") != "0" and picture.get_attribute("alt")


def test_switches_choose_what_the_second_answer_reads(page, server, media):
    page.send(media["video"])
    page.until("seen")
    for box in page.at("switches").find_elements(By.TAG_NAME, "input"):
        box.click()
    page.ask(QUESTION)
    page.until("answers")
    request = asking("hears", video=server.sent(media["video"])) | {"without": ["video"]}
    _, other = server.post("/page/ask", request).json()["answers"]
    assert page.at("second-title").text == "Without video"
    assert page.at("second").text == other["text"]


def test_a_wrong_file_is_named_and_another_one_works(page, media, tmp_path):
    wrong = tmp_path / "notes.txt"
    wrong.write_text("not a video")
    page.send(wrong)
    message = page.until("error").text
    assert "video: cannot be read as video or sound" in message
    assert not page.at("seen").is_displayed()
    page.at("parts").find_element(By.TAG_NAME, "button").click()
    page.send(media["video"])
    page.until("seen")
    assert not page.at("error").is_displayed()


def test_a_sample_comes_with_its_questions_and_a_scene_is_sent_as_a_zip(page, media):
    page.choose_model("sees")
    page.until("samples-row")
    page.at("samples").find_element(By.XPATH, "button[2]").click()
    page.until("seen")
    page.at("suggested").find_element(By.TAG_NAME, "button").click()
    page.at("ask").submit()
    page.until("answers")
    assert page.at("reference").text == "The benchmark's answer: grey"
    page.send(media["depth"])
    page.until("answers", lambda section: not section.is_displayed())
    page.until("seen")
    shown = page.at("frames").find_elements(By.TAG_NAME, "figcaption")
    assert [one.text for one in shown] == ["video", "3d"]


def test_the_page_asks_for_the_token(browser, runs):
    with serving(runs["hears"], token="a long enough secret") as server:
        assert requests.get(f"{server.url}/page/models").status_code == 401
        page = Page(browser, server.url)
        dialog = page.until("token-dialog")
        page.at("token").send_keys("wrong\n")
        page.until("token-dialog")
        page.at("token").clear()
        page.at("token").send_keys("a long enough secret\n")
        page.until("model", lambda box: box.find_elements(By.TAG_NAME, "option"))
        assert not dialog.is_displayed()
