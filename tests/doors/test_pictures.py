"""The pictures of the README, as `make pictures` makes them: the playground with the example models, and the report and
the figure of the demo's metrics. Chromium draws; without it this is skipped."""

import os
import shutil

import pytest
from rooms import ROOT
from served import served
from small_runs import sllm

from sllm.loading import load_model

LARGEST = 300_000  # bytes: they are loaded by everybody who reads the README


@pytest.fixture(scope="module")
def browser():
    api, path = pytest.importorskip("playwright.sync_api"), shutil.which("chromium")
    if not path:
        pytest.skip("Chromium is missing: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def picture(tmp_path):
    """Where a picture goes: PICTURES is a folder to keep them in."""
    return lambda name: os.path.join(os.environ.get("PICTURES", tmp_path), name)


def test_the_playground(browser, picture):
    models = {name: load_model(name) for name in ("example:sllm", "example:lm")}
    with served(models, playground=True) as address:
        page = browser.new_page(viewport={"width": 1000, "height": 1000}, color_scheme="light")
        page.goto(address)
        page.wait_for_selector("body[data-ready=yes]")
        page.get_by_label("Prompt").fill("Once upon a time")
        page.get_by_label("Tokens", exact=True).fill("90")
        page.get_by_label("Temperature").fill("0.7")
        page.get_by_label("Seed").fill("4")
        page.get_by_role("button", name="Write", exact=True).click()
        page.get_by_text("All texts are written.").wait_for()
        assert page.locator("#texts .accepted, #texts .own").count() > 20
        page.get_by_label("Text", exact=True).fill("Once upon a time there was a king. He lived in a great castle.")
        page.get_by_role("button", name="Score").click()
        page.get_by_text("sentences are scored.").wait_for()
        height = page.evaluate("document.querySelector('#scores').getBoundingClientRect().bottom + scrollY")
        page.evaluate("scrollTo(0, 0)")  # the line that says what was done stays in sight
        clip = {"x": 0, "y": 0, "width": 1000, "height": height + 16}
        drawn = page.screenshot(path=picture("playground.png"), full_page=True, clip=clip)
    assert 20_000 < len(drawn) < LARGEST


def test_the_report(browser, picture, tmp_path):
    sllm(f"report --runs {ROOT}/results/demo --title Demo --output_dir {tmp_path}")
    page = browser.new_page(viewport={"width": 1000, "height": 960}, color_scheme="light")
    page.goto((tmp_path / "report.html").as_uri())
    assert 20_000 < len(page.screenshot(path=picture("report.png"))) < LARGEST


def test_the_figure(picture):
    path = picture("demo.svg")
    sllm(f"report --figure {path} --metrics {ROOT}/results/demo/metrics.json")
    assert 1000 < os.path.getsize(path) < LARGEST
