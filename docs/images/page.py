"""Draw page.png of a server: ``python docs/images/page.py URL SAMPLE QUESTION``."""

import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


def main(url: str, sample: str, question: str) -> None:
    """Choose a sample and one of its questions, ask, and draw the page."""
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--window-size=1100,1900"):
        options.add_argument(option)
    # Named, as Selenium would look for another one on the network.
    options.binary_location, driver = shutil.which("chromium"), shutil.which("chromedriver")
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:

        def wait(name: str) -> None:
            shown = lambda _: browser.find_element(By.ID, name).is_displayed()  # noqa: E731
            WebDriverWait(browser, 60).until(shown)

        def click(place: str, text: str) -> None:
            browser.find_element(By.XPATH, f"//*[@id='{place}']/button[.='{text}']").click()

        browser.get(url)
        wait("samples-row")
        click("samples", sample)
        wait("seen")
        click("suggested", question)
        browser.find_element(By.ID, "question").send_keys("\n")
        wait("answers")
        browser.find_element(By.ID, "look").click()
        wait("attention")
        body = browser.find_element(By.TAG_NAME, "body")
        browser.set_window_size(1100, body.size["height"] + 140)
        body.screenshot(str(Path(__file__).with_name("page.png")))


if __name__ == "__main__":
    main(*sys.argv[1:])
