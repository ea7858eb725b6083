"""Milliseconds from opening the page of a server to its first paint, over loopback, in Chromium.

    make browser
    .venv/bin/python benchmarks/first_paint.py > benchmarks/results/first_paint.json

Each opening is in a browser context of its own, which has nothing in its cache, as `first-contentful-paint`
tells it, from the beginning of the navigation. The model is small and of random weights, since the page does
not wait for it. `CHROMIUM` names the browser; else it is Playwright's own.
"""

import json
import os
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from random_model import random_model
from served import free_port, ringworld, served

from ringworld.core.origin import machine, versions
from ringworld.model.config import Architecture

OPENINGS = 20
MODEL = Architecture(layers=1, embed=32, heads=2, kv_heads=1, head=16, mlp=64, text_vocab=300)
PAINTED = """() => new Promise(resolve => new PerformanceObserver(seen => {
    for (const each of seen.getEntriesByName('first-contentful-paint')) resolve(each.startTime);
}).observe({ type: 'paint', buffered: true }))"""


def opened(browser: Browser, address: str) -> float:
    """Open the page once, and return its first paint in milliseconds."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(address)
    painted = page.evaluate(PAINTED)
    context.close()
    return painted


def main() -> None:
    """Serve, open, and print one JSON object."""
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        model, port = random_model(Path(work) / "model", MODEL), free_port()
        with served(ringworld(model, port=port), port=port, log=Path(work) / "log"):
            path, address = os.environ.get("CHROMIUM") or None, f"http://127.0.0.1:{port}"
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if path else [])
            opened(browser, address)  # the browser itself begins
            painted = [opened(browser, address) for _ in range(OPENINGS)]
            version = browser.version
            browser.close()
    record = {
        "command": "python benchmarks/first_paint.py",
        "versions": versions("ringworld", "playwright", "starlette", "uvicorn") | {"chromium": version},
        "machine": machine(),
        "openings": OPENINGS,
        "first_paint_milliseconds": {
            "median": statistics.median(painted),
            "least": min(painted),
            "most": max(painted),
        },
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
