import io
import json
import re
import shlex
import sys

import numpy as np
import pytest
from PIL import Image

from ringworld.cli import main as command_line
from ringworld.cli.jobs.attention import COMPILED

SMALL = ("bench", "layouts", "--seq", "8192", "--members", "4")
TINY = (
    "bench",
    "attention",
    "--devices",
    "8",
    "--seq",
    "512",
    "--heads",
    "4",
    "--kv-heads",
    "2",
    "--head",
    "16",
)


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


def test_a_sequence_of_few_tokens_has_documents_too(capsys):
    title, *_ = run(
        capsys, "bench", "layouts", "--seq", "2", "--members", "2", "--layouts", "striped"
    ).splitlines()
    assert title == "2 tokens over 2 members: 2 documents, the longest 1"


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
        (("--seq", "8196"), "got 8196 tokens over 4 members, expected a multiple of 8. Use 8200"),
        (("--members", "0"), "--members: got 0, expected at least 1"),
        (("--block-tokens", "0"), "--block-tokens: got 0"),
        (("--members", "1048576"), "--members: got 1048576, expected at least 1 and at most 4096"),
        (("--seq", str(10**12)), "--seq: got 1000000000000, expected at least 1 and at most 2147483647"),
        (("--sigma", "nan"), "--sigma: got nan, expected a finite number"),
        (("--sigma", "-1"), "--sigma: got -1.0, expected at least 0"),
        (("--sigma", "1000"), "--sigma: got 1000.0, expected a spread with which no length is infinite"),
        (("--layouts",), "--layouts: got none, expected at least one"),
        (("--lengths", "equal", "--documents", "0"), "--documents: got 0, expected 1 to 8192"),
        (("--layouts", "zigzig"), "'zigzag'"),
        (("--member", "4"), "--members"),
    ],
)
def test_what_cannot_be_measured_is_named(arguments, said, capsys):
    # The last of an option that is given twice counts.
    assert said in refused(capsys, *SMALL, *arguments)


@pytest.mark.parametrize("part", ["layouts", "attention"])
def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_measured(part, tmp_path, capsys):
    expected = "expected a name of a file that ends in .png"
    folder = tmp_path / "folder.png"
    folder.mkdir()
    no_folder = tmp_path / "no folder"
    no_folder.touch()
    for out, got in (
        (".", "a folder"),
        (folder, "a folder"),
        ("a.jpg", "the ending '.jpg'"),
        ("a", "no ending"),
    ):
        said = refused(capsys, "bench", part, "--seq", "8", "--out", str(out))
        assert f"--out {out}: got {got}, {expected}" in said
    said = refused(capsys, "bench", part, "--seq", "8", "--out", str(no_folder / "a.png"))
    assert f"--out {no_folder}: got a file where a folder should be" in said


def test_attention_is_measured_by_what_is_visible(capsys):
    options = ("--documents", "4", "--block-q-tokens", "32", "--block-kv-tokens", "32", "--repeats", "2")
    made = json.loads(run(capsys, *TINY, *options, "--json"))
    assert sorted(made["command"].split()) == sorted(("ringworld", *TINY, *options))
    pairs = 4 * 128 * 129 // 2
    assert made["seconds"] * made["visible_flops_per_second"] == pytest.approx(14 * pairs * 4 * 16)
    assert made["problem"]["lengths"] == [128] * 4
    assert made["versions"].keys() >= {"ringworld", "jax", "jaxlib", "python"}
    # What one member holds of q, out, dout and dq, and of k, v, dk and dv, of half as many heads.
    assert made["peak_bytes"] > (4 + 4 * 0.5) * (512 // 8) * 4 * 16 * 4


OF_PEER = {"name": "a peer", "seconds": 60.0, "peak_bytes": 2**40, "memory": COMPILED, "versions": {}}


@pytest.fixture
def peer(tmp_path):
    """Return the command of a program, and the file to which it adds the problem that it got."""

    def command(last_line: str) -> str:
        script = tmp_path / f"peer{len(list(tmp_path.iterdir()))}.py"
        script.write_text(
            "import sys, pathlib\n"
            f"with pathlib.Path({str(tmp_path / 'asked.jsonl')!r}).open('a') as stream:\n"
            "    stream.write(sys.argv[-1] + '\\n')\n"
            f"print('loading')\nprint({last_line!r})\n"
        )
        return shlex.join([sys.executable, str(script)])

    return command


def test_peers_get_the_problem_and_are_compared(peer, tmp_path, capsys):
    peers = peer(json.dumps(OF_PEER)), peer(json.dumps(OF_PEER | {"memory": "guessed"}))
    options = ("--no-backward", "--peers", *peers, "--rounds", "2", "--repeats", "1")
    made = json.loads(run(capsys, *TINY, *options, "--json"))
    row, other = made["peers"]
    assert row["name"] == "a peer"
    assert row["times_the_seconds"] == pytest.approx(60 / made["seconds"])
    assert row["times_the_bytes"] == pytest.approx(2**40 / made["peak_bytes"])
    # What was found in another way is not compared.
    assert "times_the_bytes" not in other
    asked = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
    assert asked == [made["problem"]] * 4
    assert (asked[0]["heads"], asked[0]["kv_heads"], asked[0]["backward"]) == (4, 2, False)


def test_attention_and_its_peers_are_shown_in_a_table_and_a_picture(peer, tmp_path, capsys):
    path = tmp_path / "times.png"
    options = ("--peers", peer(json.dumps(OF_PEER)), "--repeats", "1", "--out", str(path))
    title, _, ours, theirs = run(capsys, *TINY, *options).splitlines()
    assert title == "512 tokens over 8 devices, 4 heads of 2 keys of 16, float32, forward and backward"
    assert ours.startswith("ringworld, hybrid ") and ours.endswith("1.00 x")
    assert theirs.split()[:3] == ["a", "peer", "60.0000"]
    with Image.open(path) as image:
        assert np.unique(np.asarray(image.convert("L"))).size > 16


@pytest.mark.parametrize(
    "last_line",
    [
        "no JSON",
        '{"seconds": 1.0}',
        json.dumps(OF_PEER | {"seconds": "1"}),
        json.dumps(OF_PEER | {"seconds": 0}),
        json.dumps(OF_PEER | {"name": 3}),
        json.dumps(OF_PEER | {"peak_bytes": -1}),
        json.dumps(OF_PEER | {"seconds": 5e-324}),
        json.dumps(OF_PEER | {"seconds": 10**400}),
        json.dumps(OF_PEER | {"name": "two\nlines"}),
        json.dumps(OF_PEER | {"versions": 7}),
        "[1, 2]",
    ],
)
def test_a_peer_that_does_not_answer_is_named(last_line, peer, capsys):
    said = refused(capsys, *TINY, "--repeats", "1", "--peers", peer(last_line))
    assert "peer0.py" in said and "Try the command by itself" in said


def test_a_name_with_signs_of_formulas_is_drawn_as_it_is(peer, tmp_path, capsys):
    path = tmp_path / "times.png"
    priced = peer(json.dumps(OF_PEER | {"name": r"a $\frac$ b"}))
    run(capsys, *TINY, "--repeats", "1", "--peers", priced, priced, "--out", str(path))
    assert path.stat().st_size


def test_a_peer_that_fails_leaves_the_others(peer, tmp_path, capsys):
    path = tmp_path / "times.png"
    peers = "no-such-program", peer(json.dumps(OF_PEER)), peer("no JSON")
    options = (*TINY, "--repeats", "1", "--rounds", "2", "--peers", *peers)
    missing, answered, silent = json.loads(run(capsys, *options, "--json"))["peers"]
    assert missing.keys() == silent.keys() == {"name", "failed"}
    assert (missing["name"], silent["name"]) == (peers[0], peers[2])
    assert "No such file" in missing["failed"]
    assert answered["seconds"] == 60
    _, _, ours, *theirs = run(capsys, *options, "--out", str(path)).splitlines()
    assert ours.endswith("1.00 x")
    assert re.fullmatch(r"no-such-program +failed: .*No such file.*", theirs[0])
    assert theirs[1].split()[:3] == ["a", "peer", "60.0000"]
    assert "failed: " in theirs[2]
    assert path.stat().st_size


def test_where_all_peers_fail_each_is_named(peer, capsys):
    said = refused(capsys, *TINY, "--repeats", "1", "--peers", "no-such-program", peer("no JSON"))
    assert "'no-such-program' '" in said and "peer0.py" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--peers", ""), "--peers '': got no word"),
        (("--peers", "a 'b"), "No closing quotation"),
        (("--kv-heads", "3"), "4 for queries, 3 for keys"),
        (("--seq", "500"), "500 tokens over 8 members"),
        (("--documents", "513"), "--documents: got 513, expected 1 to 512"),
        (("--strategy", "head_parallel", "--kv-heads", "4"), "over 8 devices"),
        (("--repeats", "0"), "--repeats: got 0"),
        (("--head", "0"), "--head: got 0"),
        (("--block-q-tokens", "0"), "--block-q-tokens: got 0"),
        (("--head", str(10**22)), "memory for the sequence: got queries or keys of"),
        (("--devices", str(10**8)), "--devices: got 100000000, expected at least 1 and at most 512"),
        (("--strategy", "hybrid", "--kv-heads", "1"), "1 heads of keys over 8 devices"),
        (("--peers", "no-such-program"), "no-such-program"),
    ],
)
def test_attention_that_cannot_be_measured_is_named(arguments, said, capsys):
    assert said in refused(capsys, *TINY, *arguments)


def test_a_part_must_be_named(capsys):
    assert "layouts" in refused(capsys, "bench")
    assert "layouts" in refused(capsys, "bench", "layuts")
