import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from ringworld.cli import main as command_line

SMALL = ("bench", "layouts", "--seq", "8192", "--members", "4")


def run(capsys, *arguments: str) -> str:
    command_line.main(arguments)
    return capsys.readouterr().out


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 2
    return "".join(capsys.readouterr())


def test_layouts_are_compared_in_a_table(capsys):
    title, head, *rows = run(capsys, *SMALL, "--lengths", "equal", "--documents", "4").splitlines()
    assert title == "8K tokens over 4 members: 4 documents, the longest 2048"
    assert head.split()[:2] == ["layout", "efficiency"]
    found = {row.split()[0]: [float(word) for word in row.split()[1:4]] for row in rows}
    assert list(found) == ["contiguous", "zigzag", "striped", "balanced"]
    # Each member holds one document; blocks of 256 are half seen on the diagonal of 8 x 8.
    assert found["contiguous"] == found["balanced"] == [1, pytest.approx(8 / 9, abs=1e-3), 1]
    # A zigzag member holds pieces of two documents: half of one kind of work, as much again of the other.
    assert found["zigzag"][0] < 0.7


def test_json_says_what_was_measured_and_with_what(capsys):
    options = ("--lengths", "book", "--seed", "5", "--layouts", "zigzag", "balanced", "--block-tokens", "64")
    made = json.loads(run(capsys, *SMALL, *options, "--json"))
    assert (made["seq"], made["members"], made["block_tokens"]) == (8192, 4, 64)
    of_command = "--layouts zigzag balanced --seed 5 --block-tokens 64"
    assert made["command"] == f"ringworld bench layouts --seq 8192 --members 4 {of_command}"
    assert made["longest_document_tokens"] == int(0.4 * 8192)
    assert made["versions"].keys() == {"ringworld", "numpy", "python"}
    assert re.fullmatch(r"\d+ cores \S+", made["machine"])
    zigzag, balanced = made["layouts"]
    assert (zigzag["layout"], balanced["layout"]) == ("zigzag", "balanced")
    for name in ("efficiency", "efficiency_in_blocks", "total_balance"):
        assert 0 < zigzag[name] < balanced[name] <= 1
    assert 0 < balanced["place_seconds"] < 5


def test_a_picture_has_a_panel_for_each_layout(tmp_path, capsys):
    sizes = []
    for layouts in (["balanced"], ["zigzag", "balanced"]):
        path = tmp_path / f"{len(layouts)}.png"
        run(capsys, *SMALL, "--lengths", "one", "--layouts", *layouts, "--out", str(path))
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            sizes.append(image.size)
            assert np.unique(np.asarray(image.convert("L"))).size > 16
    assert sizes[1][0] > 1.5 * sizes[0][0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seq", "8196"), "got 8196 tokens over 4 ring members, expected a multiple of 8. Use 8200"),
        (("--members", "0"), "--members: got 0, expected at least 1"),
        (("--block-tokens", "0"), "--block-tokens: got 0"),
        (("--sigma", "nan"), "--sigma: got nan"),
        (("--lengths", "equal", "--documents", "0"), "--documents: got 0, expected 1 to 8192"),
        (("--layouts", "zigzig"), "'zigzag'"),
        (("--member", "4"), "--members"),
    ],
)
def test_what_cannot_be_measured_is_named(arguments, said, capsys):
    # The last of an option that is given twice counts.
    assert said in refused(capsys, *SMALL, *arguments)


def test_a_part_must_be_named(capsys):
    assert "layouts" in refused(capsys, "bench")
    assert "layouts" in refused(capsys, "bench", "layuts")
