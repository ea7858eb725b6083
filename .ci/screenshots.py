"""The pictures of docs/serving.md, of a page that a real model serves; in the environment of `make browser`.

    make quickstart browser
    .venv/bin/python .ci/screenshots.py runs/quickstart docs

`CHROMIUM` names the browser of the system, as for `make browser`.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

QUESTION = "What color is the shape?"
CAPTION = "A red circle moves right."


@contextmanager
def served(model: Path, *, memories: Path) -> Iterator[str]:
    """Serve a model, and yield the address of its page."""
    command = [sys.executable, "-m", "ringworld", "serve", "--model", str(model), "--port", "0"]
    command += ["--name", "quickstart", "--memory-folder", str(memories)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                print(line, end="", file=sys.stderr)
                if found := re.search(r"http://[^\s/]+", line):
                    yield f"{found[0]}/"
                    return
            raise SystemExit("the model was not served")
        finally:
            process.terminate()


def ask(page: Page, clip: Path) -> None:
    """Ask about a clip, and wait for the answer."""
    page.locator("#files").set_input_files(clip)
    expect(page.locator("#attached canvas").first).to_be_visible()
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("button", name="Export")).to_be_enabled(timeout=120_000)


def main(run: Path, out: Path) -> None:
    """Write three pictures: an answer about a clip, a drawn video, and a kept conversation on a phone."""
    asked = sorted((run / "toy" / "videos" / "held_out").glob("*.json"))
    clip = next(path for path in asked if QUESTION in path.read_text()).with_suffix(".mp4")
    with (
        tempfile.TemporaryDirectory() as memories,
        served(run / "model", memories=Path(memories)) as address,
        sync_playwright() as playwright,
    ):
        path = os.environ.get("CHROMIUM") or None
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if path else [])

        page = browser.new_page(viewport={"width": 1000, "height": 760}, color_scheme="light")
        page.goto(address)
        ask(page, clip)
        page.screenshot(path=out / "page-ask.png")

        page.get_by_role("button", name="Draw", exact=True).first.click()
        page.get_by_label("What to draw").fill(CAPTION)
        page.get_by_label("Kind").select_option("video")
        page.get_by_label("Frames of a video").fill("6")
        page.locator("#drawseed").fill("7")
        page.locator("#start").click()
        expect(page.locator("figure video")).to_have_count(1, timeout=120_000)
        page.wait_for_timeout(2000)  # until the player shows its first frame
        page.screenshot(path=out / "page-draw.png")

        page = browser.new_page(viewport={"width": 390, "height": 760}, color_scheme="dark")
        page.goto(address)
        ask(page, clip)
        page.locator("#memories summary").click()
        page.get_by_role("button", name="Keep this conversation").click()
        expect(page.locator("#kept li")).to_have_count(1, timeout=120_000)
        page.screenshot(path=out / "page-memories.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
