"""The report: one well-formed page that needs nothing else, holds the numbers and escapes its input."""

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ringworld.core.config import read_as
from ringworld.core.errors import InputError
from ringworld.core.results import Evaluation, Result
from ringworld.report import markup
from ringworld.report.report import NUMBERS_FILE, render, write_report
from ringworld.report.schema import Metrics
from tests.report.sample_run import CAPTIONS, make_run

VOID = {"meta", "img", "br", "hr", "source", "link", "input"}


class Page(HTMLParser):
    """Checks that elements nest, and keeps attributes, ids and words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def metrics(out) -> Metrics:
    return make_run(out)


@pytest.fixture(scope="module")
def page(out, metrics) -> Page:
    return Page(write_report(metrics, out=out).read_text(encoding="utf-8"))


def test_nothing_is_fetched_and_nothing_is_run(page):
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "poster", "data"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), (tag, name)
    style = (Path(markup.__file__).parent / "report.css").read_text()
    assert "url(" not in style and "@import" not in style


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a.get("href") or a.get("xlink:href") for _, a in page.tags if "href" in a or "xlink:href" in a]
    assert links
    assert {link[1:] for link in links if link} <= set(ids)


def test_videos_play_by_themselves_in_the_page(page):
    videos = [attributes for tag, attributes in page.tags if tag == "video"]
    assert len(videos) == 2 * len(CAPTIONS)
    for attributes in videos:
        assert {"controls", "loop", "muted", "autoplay", "playsinline"} <= attributes.keys()
        assert attributes["src"].startswith("data:video/mp4;base64,")
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


@pytest.mark.parametrize(
    "shown",
    [
        "27.38 dB over 64 frames of files held out",
        "97 of 128 codes (76 %)",
        "50,000",
        "93 %",
        "316 G",
        "1.26 T",
        "256 256 16 0 512 512 8 0 1K 1,024 0 0 held-out loss 1,024 0 7",
        "3 questions are left out",
        "texts/letter003.txt (2 of this name)",
        "of a call that was killed, up to the last file that it wrote",
        "97 %",
        "2.91 bytes a token on text held out",
        "25.12 dB over 12 frames, from which all frames trained on are further than 30 dB",
        "in place of the reconstruction: 17.20 dB",
        "have 2 of these 3 captions too",
        "1 of 3 answers",
        "What color is the shape? 1 2",
        "other questions about a text 0 1",
        "text qa text 2,048 3.500 3.100",
        "0 to 16 text 4",
        "10 min 31 s",
        "6 min 43 s",
        "74.8 MB",
        "after 1K",
        "4 needles, 2 asked for",
        "1.500",
        "ringworld quickstart --out runs/first --devices 2",
        "a JPEG image named .mp4; rename it to .jpg",
        CAPTIONS[1],
    ],
)
def test_the_numbers_are_in_the_page(page, shown):
    assert shown in page.text


def test_what_it_is_given_is_escaped(out, page, metrics):
    assert "videos/<b>.mp4" in page.text
    assert "Where does <Ada> live?" in page.text
    attack = '"><script>alert(1)</script>'
    hostile = dataclasses.replace(
        metrics,
        title=attack,
        summary=attack,
        command=attack,
        facts={attack: attack},
        videos=tuple(dataclasses.replace(one, caption=attack) for one in metrics.videos),
        images=tuple(dataclasses.replace(one, caption=attack) for one in metrics.images),
        stages=tuple(dataclasses.replace(one, name=attack) for one in metrics.stages),
        evaluations=tuple(
            dataclasses.replace(
                one,
                label={"stage": attack + one.name},
                results=(
                    *one.results,
                    Result(
                        task=attack, metric=attack, cell={attack: attack}, value=None, count=0, reason=attack
                    ),
                ),
            )
            for one in metrics.evaluations
        ),
    )
    shown = Page(render(hostile, media=out))
    assert not [tag for tag, _ in shown.tags if tag == "script"]
    assert attack in shown.text


def test_the_same_metrics_give_the_same_page_again(out, metrics, page):
    first = (out / "report.html").read_text(encoding="utf-8")
    again = read_as(Metrics, out / NUMBERS_FILE)
    assert again == metrics
    assert render(again, media=out) == first


def test_a_run_of_text_alone_has_a_report(out, metrics):
    without = dataclasses.replace(
        metrics,
        videos=(),
        images=(),
        questions=(),
        continuations=(),
        reconstructions=(),
        evaluations=(),
        quarantined=(),
        questions_left_out=0,
        stages=tuple(dataclasses.replace(stage, left_out={}) for stage in metrics.stages),
        losses=tuple(dataclasses.replace(point, vision_loss=None) for point in metrics.losses),
    )
    text = Page(render(without, media=out)).text
    assert "Generated" not in text
    assert "vision loss (nats)" not in text
    assert "left out:" not in text


def test_a_missing_picture_is_named(out, metrics):
    lost = dataclasses.replace(metrics.images[0], file="lost.png")
    with pytest.raises(InputError) as refused:
        render(dataclasses.replace(metrics, images=(lost,)), media=out)
    assert refused.value.path == out / "lost.png"


def test_a_task_that_the_report_does_not_know_is_listed(out, metrics):
    def evaluation(when: str, value: float) -> Evaluation:
        of_easy = Result(task="recall", metric="accuracy", cell={"level": "easy"}, value=value, count=40)
        return Evaluation(label={"when": when}, results=(of_easy,))

    made = dataclasses.replace(metrics, evaluations=(evaluation("before", 0.25), evaluation("after", 0.875)))
    assert "recall level easy accuracy 40 0.250 0.875" in Page(render(made, media=out)).text


def test_what_was_not_measured_is_shown_with_its_reason(out, metrics, page):
    def lost(result: Result) -> Result:
        missing = result.task == "needles" and result.cell["context_tokens"] == 1024
        return dataclasses.replace(result, value=None, count=0, reason="no room") if missing else result

    evaluations = tuple(
        dataclasses.replace(one, results=tuple(map(lost, one.results))) for one in metrics.evaluations
    )
    text = Page(render(dataclasses.replace(metrics, evaluations=evaluations), media=out)).text
    assert "context_tokens 1024, depth_percent 25.0 no room" in text
    assert "no room" not in page.text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0421, "0.042 s"),
        (3.2, "3.2 s"),
        (59.7, "1 min 00 s"),
        (185.0, "3 min 05 s"),
        (8040.0, "2 h 14 min"),
    ],
)
def test_times_read_well(seconds, shown):
    assert markup.duration(seconds) == shown


@pytest.mark.parametrize(
    ("flops", "shown"),
    [
        (0.0, "0.00"),
        (999.4, "999"),
        (999.6, "1.00 k"),
        (1.234e9, "1.23 G"),
        (45.67e9, "45.7 G"),
        (7e14, "700 T"),
    ],
)
def test_rates_read_well(flops, shown):
    assert markup.rate(flops) == shown
