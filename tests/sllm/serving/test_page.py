"""The playground as people meet it: in Chromium, with real clicks and keys. `make test-browser` runs these."""

import os
import shutil

import pytest
from families import MAKERS, loaded_as, make_lm
from served import served
from tiny import make_vae

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(os.environ.get("BROWSER", "") in ("", "0"), reason="runs with BROWSER=1 (make test-browser)"),
]
WIDE, NARROW = {"width": 1100, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        path = shutil.which("chromium")
        assert path, "Chromium is missing: apt-get install chromium"
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address():
    made = {name: MAKERS[name]("llama") for name in ("sentences", "heads")} | {"vae": make_vae()}
    with served({name: loaded_as(model, name) for name, model in made.items()}, playground=True) as address:
        yield address


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        yield page


class opened:
    """A page that must not complain: neither errors nor anything that its policy forbids."""

    def __init__(self, browser, address, **settings):
        self.context = browser.new_context(**{"viewport": WIDE, **settings})
        self.address = address
        self.complaints: list[str] = []

    def __enter__(self):
        page = self.context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda told: told.type in ("error", "warning") and self.complain(told.text))
        page.on("request", lambda asked: None if asked.url.startswith(self.address) else self.complain(asked.url))
        page.goto(self.address)
        page.wait_for_selector("body[data-ready=yes]")
        return page

    def complain(self, text):
        if "the server responded with a status of 400" not in text:  # which the page says, too
            self.complaints.append(text)

    def __exit__(self, *error):
        self.context.close()
        assert self.complaints == []


def says(page, text):
    page.wait_for_function("text => document.getElementById('status').textContent.includes(text)", arg=text)


def write(page, tokens="40"):
    page.get_by_label("Prompt").fill("Hello")
    page.get_by_label("Tokens", exact=True).fill(tokens)
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Write", exact=True).click()


def panels(page, section):
    return {box.locator("h3").inner_text(): box for box in page.locator(f"#{section} .panel").all()}


def test_texts_are_written_side_by_side(page):
    write(page)
    says(page, "All texts are written.")
    boxes = panels(page, "texts")
    assert list(boxes) == ["sentences", "heads"]
    for box in boxes.values():
        assert box.locator(".prompt").inner_text() == "Hello"
        assert box.locator(".accepted, .own").count() > 5
        assert "tokens/s, cache" in box.locator(".figures").inner_text()
        assert "tokens per pass, ended by" in box.locator(".figures").inner_text()
    assert boxes["sentences"].locator(".border").count() > 0
    assert boxes["heads"].locator(".border").count() == 0
    drafted = boxes["heads"].locator(".accepted").count() + boxes["heads"].locator(".rejected").count()
    assert drafted > 0
    assert page.locator(".pending").count() == 1  # of the legend
    left, right = (box.bounding_box() for box in boxes.values())
    assert left["y"] == right["y"]
    page.get_by_label("show drafts").uncheck()
    assert not any(node.is_visible() for node in boxes["heads"].locator(".rejected").all())


def test_texts_are_written_one_by_one_where_speeds_are_to_compare(page):
    page.get_by_label("all at once").uncheck()
    write(page)
    says(page, "All texts are written.")
    assert list(panels(page, "texts")) == ["sentences", "heads"]
    assert page.locator("#texts .text[aria-busy=false]").count() == 2


def test_a_text_shows_what_its_sentences_cost(page):
    page.get_by_label("Text", exact=True).fill("Hello, you. And me")
    page.get_by_role("button", name="Score").click()
    says(page, "3 sentences are scored.")
    for box in panels(page, "scores").values():
        pieces = "node => [...node.querySelectorAll('.heat')].map((piece) => piece.textContent)"
        sentences = [node.evaluate(pieces) for node in box.locator(".scored").all()]
        assert ["".join(each) for each in sentences] == ["Hello,", " you.", " And me"]
        heat = box.locator(".heat")
        assert heat.count() > 3
        shares = [float(node.evaluate("node => node.style.getPropertyValue('--share')")) for node in heat.all()]
        assert all(0 < share <= 0.6 for share in shares)
        assert "bits per byte" in box.locator(".figures").inner_text()


def test_a_sentence_becomes_a_vector_and_text_again(page):
    form = page.locator("#rebuild")
    form.get_by_label("Sentence").fill("Hello, you.")
    form.get_by_label("Model").select_option("sentences")
    assert form.locator(".tuned").is_visible()
    form.get_by_label("Model").select_option("vae")
    assert not form.locator(".tuned").is_visible()
    form.get_by_role("button").click()
    says(page, "2 vectors, written out again.")
    assert page.locator("#rebuilt canvas").count() == 2
    assert page.get_by_role("img", name="The sentence as a vector of 16 numbers").count() == 2


def test_the_way_between_two_sentences_is_read_with_the_keyboard(page):
    page.get_by_label("From").fill("Hello")
    page.get_by_label("To", exact=True).fill("You.")
    page.get_by_label("To", exact=True).press("Enter")
    says(page, "Move the slider")
    first = page.locator("#between").inner_text()
    page.get_by_label("Place on the way").focus()
    page.keyboard.press("End")
    assert page.get_by_label("Place on the way").input_value() == "8"
    assert page.locator("#between").inner_text() != first


def test_what_is_refused_is_said(page):
    page.get_by_label("From").fill("a" * 99)
    page.get_by_role("button", name="Find the way").click()
    says(page, "Error: ")
    assert "a sentence has 1 to" in page.locator("#status").inner_text()


def test_writing_is_stopped(browser):
    model = make_lm(max_position_embeddings=10**5)
    model.get_output_embeddings().weight.data[2] = 0
    with served({"long": loaded_as(model, "long")}, playground=True) as address, opened(browser, address) as page:
        write(page, "1000")
        page.wait_for_selector("#texts .own")
        page.get_by_role("button", name="Stop").click()
        says(page, "Stopped.")
        assert page.locator("#no-vectors").is_visible()
        assert not page.locator("#rebuild").is_visible()


def test_everything_is_reached_with_the_keyboard_and_has_a_name(page):
    reached: list[str] = []
    page.locator("body").press("Tab")
    while (
        name := page.evaluate("document.activeElement.labels?.[0]?.innerText || document.activeElement.innerText")
    ) and len(reached) < 40:
        if page.evaluate("document.activeElement === document.body"):
            break
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", name
        reached.append(name.split("\n")[0].strip())
        page.keyboard.press("Tab")
    expected = [
        "Prompt",
        "Tokens",
        "Temperature",
        "Seed",
        "Write",
        "all at once (off: one by one, for speeds that compare)",
        "show drafts",
        "Text",
        "Score",
        "Sentence",
        "Model",
    ]
    expected += ["Compress and write out", "From", "To", "Model", "Find the way"]
    assert reached == expected


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_it_is_legible_on_small_and_dark_screens(browser, address, scheme, size, tmp_path):
    with opened(browser, address, viewport=size, color_scheme=scheme) as page:
        write(page)
        says(page, "All texts are written.")
        page.get_by_role("button", name="Score").click()
        says(page, "scored.")
        page.get_by_role("button", name="Compress").click()
        says(page, "written out again.")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        colours = {
            page.evaluate(f"getComputedStyle(document.querySelector('{where}')).{what}")
            for where, what in (("body", "color"), ("body", "backgroundColor"))
        }
        assert len(colours) == 2
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 29)"
        assert dark == (scheme == "dark")
        assert {name: contrast for name, contrast in contrasts(page).items() if contrast < 4.5} == {}
        picture = page.screenshot(full_page=True, path=picture_path(tmp_path, f"playground-{scheme}-{size['width']}"))
        assert len(picture) > 10_000


def picture_path(folder, name):
    """Where a screenshot goes: into the folder that PICTURES names, or nowhere that stays."""
    return f"{os.environ.get('PICTURES', folder)}/{name}.png"


def contrasts(page):
    """Contrast (WCAG) of the text of each kind of thing with what stands behind it."""
    return page.evaluate(
        """() => {
          const parsed = (c) => c.match(/[\\d.]+/g).map(Number);
          const over = (top, below) => [0, 1, 2].map((i) => top[i] * (top[3] ?? 1) + below[i] * (1 - (top[3] ?? 1)));
          const behind = (node) => {
            if (!node) return [255, 255, 255];
            return over(parsed(getComputedStyle(node).backgroundColor), behind(node.parentElement));
          };
          const light = (c) => c.slice(0, 3).map((x) => x / 255)
            .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
            .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
          const found = {};
          const kinds = "body button .own .accepted .rejected .pending .prompt .heat sub .figures";
          for (const kind of kinds.split(" "))
            for (const node of document.querySelectorAll(kind)) {
              const back = behind(node), style = getComputedStyle(node);
              const front = over([...parsed(style.color).slice(0, 3), Number(style.opacity)], back);
              const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
              if (!node.disabled) found[kind] = Math.min(found[kind] ?? 99, (a + 0.05) / (b + 0.05));
            }
          return found;
        }"""
    )
