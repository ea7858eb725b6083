"""The page of a server, driven in Chromium: `make browser` finds one, or `CHROMIUM` names it."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from ringworld.inference.config import EngineConfig
from ringworld.vision.write_media import write_video
from tests.serving.test_server import WORLD, serving

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><b>bold</b>"
VIEWS = [("phone", 375, 740, "light"), ("desktop", 1280, 900, "dark")]
# What is waited for decodes films in processes of their own, which a busy machine starts late.
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def engine():
    with WORLD.engine(EngineConfig(max_sequences=4, chunk_tokens=64)) as made:
        made.warm_up()
        yield made


@pytest.fixture(scope="module")
def port(engine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("memories")
    with serving(engine, keys=("a-long-key",), memory_folder=folder) as found:
        yield found


@pytest.fixture
def slowly(engine):
    """Let a round take a twentieth of a second, so that an answer is not over before it is stopped."""
    over = threading.Event()

    def wait(*_: object) -> None:
        if not over.wait(0.05):
            engine.between_rounds(wait)

    engine.between_rounds(wait)
    yield
    over.set()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or None
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if path else [])
        yield launched
        launched.close()


@pytest.fixture(params=VIEWS, ids=[name for name, *_ in VIEWS])
def page(browser, port, request):
    _, width, height, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    opened = context.new_page()
    complaints = []
    opened.on("console", lambda told: complaints.append(f"{told.text} {told.location}"))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(f"http://127.0.0.1:{port}/")
    opened.get_by_label("API key").fill("a-long-key")
    opened.get_by_role("button", name="Use").click()
    expect(opened.locator("#model")).to_have_text("tiny")
    yield opened
    context.close()
    # Without a key the first look at the model is refused, which the console shows too.
    refused = [each for each in complaints if "the server responded with a status of 4" in each]
    assert complaints == refused


def wide(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def shoot(page: Page, name: str) -> None:
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        size = page.viewport_size or {"width": 0}
        page.screenshot(path=Path(folder) / f"{name}-{size['width']}.png")


def test_a_conversation_streams_is_kept_and_exported(page, tmp_path):
    page.get_by_label("Most tokens").evaluate("each => each.value = 12")
    page.get_by_label("Question").fill(HOSTILE)
    expect(page.locator("#count")).to_contain_text("of 512 tokens")
    page.get_by_label("Question").press("Enter")
    expect(page.get_by_role("button", name="Export")).to_be_enabled()
    assert page.locator("#log img, #log b").count() == 0
    assert page.title() == "ringworld"
    expect(page.locator("#log .user")).to_contain_text(HOSTILE)
    answer = page.locator("#log .assistant span").last.text_content()
    assert page.evaluate("document.activeElement.id") == "question"
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export").click()
    saved.value.save_as(tmp_path / "conversation.json")
    messages = json.loads((tmp_path / "conversation.json").read_text())["messages"]
    assert messages == [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": answer}]
    shoot(page, "conversation")
    assert not wide(page)
    page.get_by_role("button", name="New conversation").click()
    assert page.locator("#log li").count() == 0


def test_an_answer_is_stopped(page, slowly):
    page.get_by_label("Temperature").evaluate("each => each.value = 5")
    page.get_by_label("Seed").first.evaluate("each => each.value = 3")
    page.get_by_label("Question").fill("On")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#status")).to_have_text("Answering")
    # Whoever sent it by the button stops it by the same key.
    assert page.evaluate("document.activeElement.id") == "stop"
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("Stopped")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    # What was written counts, though the stream did not say how much it was.
    said = page.locator("#log .assistant span").last.text_content()
    assert said
    page.wait_for_function("() => document.querySelector('#context').value > 8")


def test_what_is_written_of_one_conversation_is_not_part_of_the_next(page, slowly, tmp_path):
    page.get_by_label("Temperature").evaluate("each => each.value = 5")
    page.get_by_label("Seed").first.evaluate("each => each.value = 3")
    page.get_by_label("Question").fill("On")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#status")).to_have_text("Answering")
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    expect(page.get_by_role("button", name="Export")).to_be_disabled()
    assert page.locator("#log li").count() == 0
    page.get_by_label("Most tokens").evaluate("each => each.value = 2")
    page.get_by_label("Question").fill("Anew")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("button", name="Export")).to_be_enabled()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export").click()
    saved.value.save_as(tmp_path / "conversation.json")
    messages = json.loads((tmp_path / "conversation.json").read_text())["messages"]
    assert [each["content"] for each in messages][0::2] == ["Anew"]


def test_the_end_of_an_answer_is_in_view_unless_one_reads_further_up(page, slowly):
    page.get_by_label("Most tokens").evaluate("each => each.value = 30")
    for scrolled in (False, True):
        page.get_by_label("Question").fill("A\n" * 50 + "A")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#status")).to_have_text("Answering")
        if scrolled:
            page.locator("#log").focus()
            page.evaluate("scrollTo(0, 0)")
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        last, form = (page.locator(each).last.bounding_box() for each in ("#log li", "#ask"))
        assert last is not None and form is not None
        assert (last["y"] + last["height"] > form["y"] + 1) is scrolled
    assert page.evaluate("scrollY") == 0
    expect(page.locator("#log")).to_be_focused()


# Drags files, or a text where there are none, over an element and drops them; whether the page took them.
DROP = """(target, files) => {
  const dataTransfer = new DataTransfer();
  for (const [name, type, bytes] of files)
    dataTransfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
  if (!files.length) dataTransfer.setData("text/plain", "some words");
  return ["dragover", "drop"].map((kind) => !target.dispatchEvent(
    new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true })));
}"""


def test_files_are_dropped_and_words_left_to_the_browser(page, tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3)).astype(np.uint8)
    write_video(tmp_path / "film.mp4", frames, frames_per_second=4)
    film = [*(tmp_path / "film.mp4").read_bytes()]
    question = page.locator("#question")
    assert question.evaluate(DROP, []) == [False, False]
    # A browser knows no type of some films, such as Matroska's.
    dropped = [["book.txt", "text/plain", [*b"A red circle."]], ["film", "", film]]
    assert question.evaluate(DROP, dropped) == [True, True]
    expect(page.get_by_role("button", name="Remove")).to_have_count(2)
    page.get_by_label("Most tokens").evaluate("each => each.value = 2")
    page.get_by_label("Question").fill("What?")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("button", name="Export")).to_be_enabled()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_picture_a_film_and_a_book_are_attached_and_counted(page, tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3)).astype(np.uint8)
    write_video(tmp_path / "film.mp4", frames, frames_per_second=4)
    Image.fromarray(frames[0]).save(tmp_path / "picture.png")
    (tmp_path / "book.txt").write_text("A red circle moves. " * 5)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    names = ("film.mp4", "picture.png", "book.txt")
    page.locator("#files").set_input_files([tmp_path / name for name in names])
    expect(page.get_by_role("button", name="Remove")).to_have_count(3)
    expect(page.locator("#attached canvas")).to_have_count(8)
    tokens = int(page.locator("#count").text_content().split()[0])
    # Eight frames and one, of four codes and an end.
    assert tokens > 9 * 5
    watched = "(each, count) => { each.value = count; each.dispatchEvent(new Event('change')); }"
    page.locator("#watched").evaluate(watched, 2)
    expect(page.locator("#count")).to_contain_text(f"{tokens - 6 * 5} of")
    page.locator("#watched").evaluate(watched, "")
    expect(page.locator("#count")).to_contain_text(f"{tokens} of")
    page.locator("#files").set_input_files(tmp_path / "broken.png")
    expect(page.get_by_role("alert")).to_contain_text("broken.png")
    expect(page.get_by_role("button", name="Remove")).to_have_count(3)
    page.get_by_label("Question").fill("What?")
    shoot(page, "attached")
    page.get_by_label("Most tokens").evaluate("each => each.value = 4")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("button", name="Export")).to_be_enabled()
    expect(page.get_by_role("button", name="Remove")).to_have_count(0)


def test_a_conversation_is_kept_reopened_and_deleted(page, tmp_path):
    page.get_by_label("Most tokens").evaluate("each => each.value = 6")
    # Where no browser could show what it finds wrong with it, the server says it.
    page.get_by_label("Temperature").evaluate("each => each.value = 0.75")
    page.get_by_label("Question").fill(HOSTILE)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("button", name="Export")).to_be_enabled()
    said = page.locator("#log li").all_text_contents()
    page.locator("#memories summary").click()
    page.get_by_label("Name of what is kept").fill(HOSTILE)
    page.get_by_label("Name of what is kept").press("Enter")
    expect(page.locator("#kept li")).to_have_count(1)
    expect(page.locator("#status")).to_contain_text("Kept")
    assert page.locator("#kept img, #kept b").count() == 0
    page.get_by_role("button", name="New conversation").click()
    page.get_by_role("button", name="Reopen").click()
    expect(page.locator("#log li")).to_have_count(2)
    assert [each.strip() for each in page.locator("#log li").all_text_contents()] == [
        each.strip() for each in said
    ]
    shoot(page, "memories")
    assert not wide(page)
    page.get_by_label("Question").fill("Why?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#log li")).to_have_count(4)
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export").click()
    saved.value.save_as(tmp_path / "conversation.json")
    assert len(json.loads((tmp_path / "conversation.json").read_text())["messages"]) == 4
    page.locator("#memories summary").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#kept li")).to_have_count(0)


def test_a_model_of_text_alone_is_asked_for_no_drawing(page):
    model = {"id": "words", "max_model_len": 512, "vision": None, "memories": False}
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [model]}))
    page.get_by_text("Key", exact=True).click()
    page.get_by_role("button", name="Use").click()
    expect(page.locator("#model")).to_have_text("words")
    page.locator("summary", has_text="How it answers").click()
    for hidden in ("#show-draw", "#draw", "#may-hold", "#may-guide", "#may-watch", "#memories"):
        expect(page.locator(hidden)).to_be_hidden()


def test_an_answer_is_an_image(page):
    page.locator("summary", has_text="How it answers").click()
    page.get_by_label("An answer is").select_option("image")
    page.get_by_label("Guidance of what it draws").fill("3")
    page.get_by_label("Most tokens").fill("12")
    page.get_by_label("Question").fill("A red circle")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#log .assistant img")).to_have_count(1)
    assert page.locator("#log .assistant img").evaluate("each => each.naturalWidth") == 4


def test_images_and_videos_are_drawn_frame_by_frame(page):
    page.get_by_role("button", name="Draw").first.click()
    page.get_by_label("What to draw").fill(f"A red circle {HOSTILE}")
    page.get_by_label("Guidance", exact=True).fill("2")
    page.locator("#drawseed").fill("7")
    start = page.locator("#start")
    start.click()
    assert page.evaluate("document.activeElement.id") in ("halt", "start")
    expect(page.locator("#status")).to_have_text("Drawn")
    expect(start).to_be_focused()
    expect(page.locator("figure img")).to_have_count(1)
    expect(page.locator("figcaption").first).to_contain_text("seed 7, guidance 2")
    page.get_by_label("Kind").select_option("video")
    page.get_by_label("Frames of a video").fill("5")
    start.click()
    expect(page.locator("figure video")).to_have_count(1)
    assert page.locator("figure").first.locator("img").count() == 5
    assert all(page.locator("figure img").evaluate_all("all => all.map(each => each.naturalWidth === 4)"))
    shoot(page, "drawn")
    assert not wide(page)


def test_all_that_is_used_has_a_name_and_is_reached_by_keys(page):
    for view in ("Ask", "Draw"):
        page.get_by_role("button", name=view, exact=True).first.click()
        used = "button, input, textarea, select, summary, meter"
        for control in page.locator(used).locator("visible=true").all():
            named = "e => e.labels?.length || e.textContent.trim() || e.ariaLabel"
            assert control.evaluate(named), control.evaluate("e => e.outerHTML")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator("body").evaluate("() => document.activeElement.blur()")
    reached = set()
    for _ in range(18):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
        style = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(f"document.activeElement.matches('body, .unseen') || {style} !== 'none'")
    assert {"question", "files", "send", "fresh", "show-draw"} <= reached


# Of each element that shows text of its own, (L1 + 0.05) / (L2 + 0.05) of WCAG 2.2, and how it begins.
CONTRASTS = """() => {
  const part = (byte) => byte / 255 <= 0.04045 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4;
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.05 + 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ground = (each) => {
    const color = numbers(getComputedStyle(each).backgroundColor);
    return color[3] === 0 && each.parentElement ? ground(each.parentElement) : color;
  };
  const shows = (each) => each.checkVisibility({ opacityProperty: true, visibilityProperty: true })
    && [...each.childNodes].some((inside) => inside.nodeType === Node.TEXT_NODE && inside.data.trim());
  return [...document.querySelectorAll("body *")].filter(shows).map((each) => {
    const [ink, paper] = [light(numbers(getComputedStyle(each).color)), light(ground(each))];
    return [Math.max(ink, paper) / Math.min(ink, paper), each.outerHTML.slice(0, 80)];
  });
}"""


def test_text_stands_out_from_its_ground(page):
    page.locator("summary", has_text="How it answers").click()
    page.locator("#files").set_input_files({"name": "a.bin", "mimeType": "", "buffer": b"\xff"})
    expect(page.get_by_role("alert")).to_contain_text("a.bin")
    for view in ("Ask", "Draw"):
        page.get_by_role("button", name=view, exact=True).first.click()
        found = page.evaluate(CONTRASTS)
        assert len(found) > 12
        assert [each for each in found if each[0] < 4.5] == []
