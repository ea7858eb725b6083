"""Layouts compared: the figures of workloads that can be checked by hand, and all layouts in one picture."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from ringworld.attention.config import LayoutName
from ringworld.bench import lengths
from ringworld.bench.layouts import LayoutBench, bench_layouts
from ringworld.bench.lengths import Workload
from ringworld.core.errors import InputError

LAYOUTS: tuple[LayoutName, ...] = ("contiguous", "zigzag", "striped", "balanced")


def compared(workload: Workload = "equal", *, layouts=LAYOUTS, seq=8192, members=4, **options) -> LayoutBench:
    drawn = lengths.draw(workload, seq=seq, documents=4, seed=5)
    return bench_layouts(drawn, members=members, layouts=layouts, **options)


def test_a_document_for_each_member_is_even_where_members_hold_documents():
    made = compared()
    found = {one.layout: one for one in made.balances}
    assert tuple(found) == LAYOUTS
    for layout in ("contiguous", "balanced"):
        # Blocks of 256 are half seen on the diagonal of 8 x 8.
        assert (found[layout].efficiency, found[layout].total_balance) == (1, 1)
        assert found[layout].efficiency_in_blocks == pytest.approx(8 / 9, abs=1e-3)
    # A zigzag member holds pieces of two documents: half of one kind of work, as much again of the other.
    assert found["zigzag"].efficiency < 0.7
    title, _, *rows = made.table().splitlines()
    assert title == "8K tokens over 4 members: 4 documents, the longest 2048"
    assert [row.split()[0] for row in rows] == list(LAYOUTS)


def test_a_sequence_of_few_tokens_has_documents_too():
    made = compared("book", seq=2, members=2, layouts=("striped",))
    assert made.lengths == (1, 1)


def test_json_has_the_workload_the_figures_and_with_what_they_were_found():
    made = json.loads(
        compared("book", layouts=("zigzag", "balanced"), block_tokens=64).json(command="the command")
    )
    assert (made["command"], made["seq"], made["members"], made["block_tokens"]) == (
        "the command",
        8192,
        4,
        64,
    )
    assert made["longest_document_tokens"] == int(0.4 * 8192)
    assert made["versions"].keys() == {"ringworld", "numpy", "python"}
    zigzag, balanced = made["layouts"]
    for name in ("efficiency", "efficiency_in_blocks", "total_balance"):
        assert 0 < zigzag[name] < balanced[name] <= 1
    assert 0 < balanced["place_seconds"] < 5


def test_a_picture_has_a_panel_for_each_layout():
    sizes = []
    for layouts in (("balanced",), ("zigzag", "balanced")):
        with Image.open(io.BytesIO(compared("one", layouts=layouts).picture())) as image:
            sizes.append(image.size)
            assert np.unique(np.asarray(image.convert("L"))).size > 16
    assert sizes[1][0] > 1.5 * sizes[0][0]


@pytest.mark.parametrize(
    "wrong", [{"members": 0}, {"members": 1 << 20}, {"block_tokens": 0}, {"layouts": ()}], ids=str
)
def test_what_cannot_be_compared_is_refused(wrong):
    with pytest.raises(InputError) as refused:
        compared(**wrong)
    assert refused.value.field == next(iter(wrong))


def test_a_sequence_that_a_layout_does_not_divide_is_refused():
    with pytest.raises(InputError):
        compared(seq=8196)
