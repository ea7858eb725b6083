import errno
import os
import re
import signal
import subprocess
import sys

import pytest

from ringworld.cli import main as command_line
from ringworld.cli.jobs.quickstart import PHASES_FOLDER, claim
from ringworld.cli.quickstart import Quickstart
from ringworld.core.config import read_run, write_run
from ringworld.core.errors import Stopped
from ringworld.core.files import only_one
from ringworld.presets import RunConfig, quickstart, smoke

COMMANDS = ("quickstart", "train-tokenizer", "prepare", "train", "generate", "evaluate")


def run(capsys, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert isinstance(ended.value.code, int)
    captured = capsys.readouterr()
    return ended.value.code, captured.out + captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option_and_what_happens_without_it(command, capsys):
    code, text = run(capsys, command, "--help")
    assert code == 0
    options = re.findall(r"^\S? *--[a-z]\S* ", text, flags=re.MULTILINE)
    assert len(options) >= 4
    words = " ".join(text.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split())
    assert words.count("(required)") + words.count("(default:") == len(options)
    assert all(said.strip() not in ("", "None") for said in re.findall(r"\(default:(.*?)\)", words))
    assert "None" not in words


FOLDERS = ("--out", "x", "--model", "x", "--tokenizer", "x")


@pytest.mark.parametrize(
    ("arguments", "suggested"),
    [
        (("quickstart", "--out", "x", "--device", "2"), "--devices"),
        (("quickstart", "--out", "x", "--preste", "smoke"), "--preset"),
        (("train-tokenizer", "--out", "x", "--video", "y"), "--videos"),
        (("prepare", "--out", "x", "--tokeniser", "y"), "--tokenizer"),
        (("train", *FOLDERS[:2], *FOLDERS[4:], "--data", "x", "--evaluat", "never"), "--evaluate"),
        (("generate", "--kind", "text", "--prompt", "a", *FOLDERS, "--temprature", "1"), "--temperature"),
        (("evaluate", "--data", "x", *FOLDERS, "--devcies", "2"), "--devices"),
        (("generate", "--kind", "vidoe", "--prompt", "a", *FOLDERS), "'video'"),
    ],
)
def test_a_mistyped_option_or_choice_gets_a_suggestion(arguments, suggested, capsys):
    code, text = run(capsys, *arguments)
    assert code == 2
    assert suggested in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trian",), "'trian'"),
        (("trian", "--data", "x"), "Did you mean train?"),
        (("train_tokenizer",), "Did you mean train-tokenizer?"),
        (("xyzzy",), "Choose one of these."),
        ((), "quickstart"),
    ],
)
def test_a_mistyped_or_missing_command_gets_a_suggestion(arguments, said, capsys):
    code, text = run(capsys, *arguments)
    assert code == 2
    assert said in text
    assert all(command in text for command in COMMANDS)


def test_help_and_import_load_no_jax():
    program = (
        "import sys\n"
        "from ringworld.cli import main\n"
        "try: main.main(['quickstart', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'jax', 'grain', 'av', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--preset", "quikstart"), "Did you mean quickstart"),
        (("--videos", "no/such/folder"), "--videos no/such/folder"),
        (("--texts", "no/such/folder"), "--texts no/such/folder"),
        (("--config", "no/such/run.json"), "no/such/run.json: got no such file"),
        (("--devices", "3"), "expected a multiple of 6"),
        (("--devices", "0"), "--devices: got 0"),
    ],
)
def test_what_the_user_can_mend_is_named_and_exits_with_2(arguments, named, tmp_path, capsys):
    smoke = () if "--preset" in arguments else ("--preset", "smoke")
    code, text = run(capsys, "quickstart", "--out", str(tmp_path / "out"), *smoke, *arguments)
    assert code == 2
    assert named in text
    assert "Traceback" not in text


def test_a_link_to_nothing_is_called_that(tmp_path, capsys):
    link = tmp_path / "clip.mp4"
    link.symlink_to(tmp_path / "gone.mp4")
    code, text = run(
        capsys, "quickstart", "--out", str(tmp_path / "out"), "--preset", "smoke", "--videos", str(link)
    )
    assert code == 2
    assert "clip.mp4: got a link to nothing" in text


def test_a_folder_that_holds_another_run_is_refused(tmp_path, capsys):
    out = tmp_path / "out"
    claim(out, smoke(), videos=(), texts=())
    (out / PHASES_FOLDER).mkdir()
    code, text = run(capsys, "quickstart", "--out", str(out), "--preset", "quickstart")
    assert code == 2
    assert "another configuration" in text


def test_a_call_that_was_refused_does_not_bind_the_next(tmp_path, capsys):
    out, texts = tmp_path / "out", tmp_path / "texts"
    texts.mkdir()
    refused = (("--preset", "smoke", "--devices", "3"), ("--preset", "smoke", "--texts", str(texts)))
    for arguments in refused:
        code, text = run(capsys, "quickstart", "--out", str(out), *arguments)
        assert code == 2
        assert "another configuration" not in text
        assert not (out / PHASES_FOLDER).exists()
    claim(out, quickstart(), videos=(), texts=())
    assert read_run(out, RunConfig) == quickstart()


@pytest.mark.parametrize(
    "command",
    [
        ("quickstart",),
        ("train-tokenizer", "--videos", "x"),
        ("prepare", "--tokenizer", "x", "--texts", "x"),
        ("train", "--tokenizer", "x", "--data", "x"),
        ("evaluate", "--tokenizer", "x", "--data", "x", "--model"),
    ],
)
def test_a_folder_has_one_process_at_a_time(command, tmp_path, capsys):
    write_run(tmp_path, smoke())
    with only_one(tmp_path):
        model = (str(tmp_path),) if command[-1] == "--model" else ()
        code, text = run(capsys, *command, *model, "--out", str(tmp_path))
    assert code == 2
    assert "another ringworld at work in it" in text


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "no space left"),
        (RuntimeError("tensorstore: ... No space left on device"), 2, "no space left"),
        (KeyboardInterrupt(), 130, "interrupted: the same command goes on"),
        (Stopped("SIGINT after step 3, saved", number=signal.SIGINT), 130, "SIGINT after step 3, saved"),
        (Stopped("SIGTERM after step 3, saved", number=signal.SIGTERM), 143, "SIGTERM after step 3, saved"),
    ],
)
def test_a_full_disk_and_signals_say_how_to_go_on(error, code, said, monkeypatch, capsys):
    def fail(self):
        raise error

    monkeypatch.setattr(Quickstart, "run", fail)
    ended, text = run(capsys, "quickstart", "--out", "x")
    assert ended == code
    assert said in text


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_a_name_that_is_no_text_is_shown_where_output_is_strict(encoding):
    program = (
        "from ringworld.cli import main\nmain.Quickstart.run = lambda self: print(self.out)\nmain.main()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "quickstart", "--out", b"caf\xe9"],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, b"caf\\udce9\n"), ran.stderr


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def fail(self):
        raise RuntimeError("a defect")

    monkeypatch.setattr(Quickstart, "run", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        command_line.main(["quickstart", "--out", "x"])
