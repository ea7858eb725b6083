"""Figures: they show what they are given and carry no color that a dark page cannot change."""

import dataclasses
import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ringworld.report import grids, plots
from ringworld.report.style import short
from tests.report.sample_run import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def figures(run):
    return {
        "loss": plots.loss_curve(run.losses, stages=run.stages, modality="vision"),
        "position": plots.loss_by_position(run.evaluations, modality="text"),
        "needles": plots.needle_map(grids.needle_maps(run.evaluations[1])[1, 1]),
    }


@pytest.mark.parametrize("name", ["loss", "position", "needles"])
def test_every_color_is_one_that_the_page_sets(figures, name):
    drawn = plots.svg(figures[name], name=name)
    assert not re.findall(r"#[0-9a-fA-F]{6}\b(?!\w)", re.sub(r'(?:href="|url\()#\w+', "", drawn))
    assert "var(--ink)" in drawn or "var(--muted)" in drawn


def words(figure: Figure) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", plots.svg(figure, name="words"))


def test_a_needle_map_has_the_percentage_of_every_cell(figures):
    shown = words(figures["needles"])
    assert {"256", "512", "1K"} <= set(shown)
    cells = [25 * ((i + j + 1) % 5) for i in range(3) for j in range(5)]
    depths = [0, 25, 50, 75, 100]
    numbers = sorted(int(word) for word in shown if word.isdigit())
    assert numbers == sorted([*cells, *depths, 256, 512])


def test_a_cell_that_was_not_measured_has_a_dash(run):
    first, *others = grids.needle_maps(run.evaluations[0])[1, 1]
    lost = dataclasses.replace(first, value=None, count=0, reason="no room")
    assert "\N{EN DASH}" in words(plots.needle_map([lost, *others]))


def test_curves_start_at_zero(figures):
    for name in ("loss", "position"):
        assert figures[name].axes[0].get_ylim()[0] == 0


@pytest.mark.parametrize("name", ["loss", "position"])
def test_no_measurement_is_cut_at_the_top(figures, name):
    axes = figures[name].axes[0]
    highest = max(np.max(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) > 2)
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
    assert short(tokens) == shown
