"""Figures: they show what they are given and carry no colour that a dark page cannot change."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from ringworld.evaluation import plots
from tests.evaluation.sample_run import make_run


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run"))
    return {
        "loss": plots.loss_curve(run.losses, stages=run.stages, modality="vision"),
        "position": plots.loss_by_position(run.held_out, modality="text"),
        "needles": plots.needle_map(run.needles[1]),
    }


@pytest.mark.parametrize("name", ["loss", "position", "needles"])
def test_every_colour_is_one_that_the_page_sets(figures, name):
    drawn = plots.svg(figures[name], name=name)
    assert not re.findall(r"#[0-9a-fA-F]{6}\b(?!\w)", re.sub(r'(?:href="|url\()#\w+', "", drawn))
    assert "var(--ink)" in drawn or "var(--muted)" in drawn


def test_a_needle_map_has_the_percentage_of_every_cell(figures):
    words = re.findall(r"<text[^>]*>([^<]*)</text>", plots.svg(figures["needles"], name="map"))
    assert {"256", "512", "1K", "0", "25", "50", "75", "100"} <= set(words)
    assert len(words) == 3 + 5 + 15 + 2


def test_curves_start_at_zero(figures):
    for name in ("loss", "position"):
        assert figures[name].axes[0].get_ylim()[0] == 0


def test_no_measurement_is_cut_at_the_top(figures):
    axes = figures["position"].axes[0]
    highest = max(np.max(line.get_ydata()) for line in axes.lines)
    assert highest < 0.95 * axes.get_ylim()[1]


def test_a_position_of_few_targets_is_not_drawn(figures):
    assert all(min(line.get_xdata()) == 1 for line in figures["position"].axes[0].lines)


def test_a_strip_sets_rows_one_above_the_other():
    frames = np.arange(2 * 1 * 1 * 3, dtype=np.uint8).reshape(2, 1, 1, 3)
    strip = plots.frame_strip([frames, frames + 100], scale=2, gap_pixels=1)
    picture = np.asarray(Image.open(io.BytesIO(strip)))
    assert picture.shape == (5, 5, 4)
    assert picture[0, :, :3].tolist() == [[0, 1, 2], [0, 1, 2], [0, 0, 0], [3, 4, 5], [3, 4, 5]]
    assert picture[4, 0].tolist() == [100, 101, 102, 255]
    assert (picture[2] == 0).all()


def test_a_row_of_a_strip_may_be_shorter():
    frames = np.full((2, 1, 1, 3), 7, np.uint8)
    picture = np.asarray(Image.open(io.BytesIO(plots.frame_strip([frames, frames[:1]], gap_pixels=0))))
    assert picture[..., 3].tolist() == [[255, 255], [255, 0]]


@pytest.mark.parametrize(
    ("tokens", "shown"), [(256, "256"), (1000, "1000"), (4096, "4K"), (1 << 20, "1M"), (1536, "1536")]
)
def test_lengths_are_written_short(tokens, shown):
    assert plots.short(tokens) == shown
