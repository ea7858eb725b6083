import errno
import os
import re
import signal
import subprocess
import sys

import pytest

from ringworld.cli import main as command_line
from ringworld.cli.quickstart import Quickstart
from ringworld.core.config import to_json
from ringworld.core.errors import Diverged, RenderTimeout, Stopped
from ringworld.core.files import only_one
from ringworld.core.origin import Origin, read_origin, write_origin
from ringworld.presets import smoke
from ringworld.quickstart.config import full, tiny
from ringworld.quickstart.job import PHASES_FOLDER

COMMANDS = tuple(name for name in command_line.COMMANDS if name != "bench")


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
    options = re.findall(
        r"^\S? *(?:--[a-z]\S*|SOURCE|PRESET\S*|EXAMPLES|RUN \.\.\.|\{stats,show\})\s",
        text,
        flags=re.MULTILINE,
    )
    assert len(options) >= 2
    words = " ".join(text.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split())
    assert words.count("(required)") + words.count("(default:") == len(options)
    assert all(said.strip() not in ("", "None") for said in re.findall(r"\(default:(.*?)\)", words))
    assert "None" not in words


FOLDERS = ("--out", "x", "--model", "x")
SMOKE = ("--preset", "smoke")


@pytest.mark.parametrize(
    ("arguments", "suggested"),
    [
        (("quickstart", "--out", "x", "--device", "2"), "--devices"),
        (("quickstart", "--out", "x", "--preste", "smoke"), "--preset"),
        (("train-tokenizer", *SMOKE, "--out", "x", "--vidoes", "y"), "--videos"),
        (("prepare", *SMOKE, "--out", "x", "--tokeniser", "y"), "--tokenizer"),
        (("train", *SMOKE, "--out", "x", "--data", "x", "--evaluat", "never"), "--evaluate"),
        (("train", *SMOKE, "--out", "x", "--data", "x", "--model.layer", "3"), "--model.layers"),
        (("generate", "--kind", "text", "--prompt", "a", *FOLDERS, "--temprature", "1"), "--temperature"),
        (("evaluate", "--data", "x", *FOLDERS, "--devcies", "2"), "--devices"),
        (("convert", "x.gguf", "--out", "x", "--tokeniser", "y"), "--tokenizer"),
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
        (("trian", "--data", "x"), "train?"),
        (("train_tokenizer",), "train-tokenizer?"),
        (("xyzzy",), "'xyzzy'"),
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


@pytest.mark.parametrize("command", ["train-tokenizer", "prepare", "train"])
def test_a_command_without_a_preset_lists_what_there_is(command, capsys):
    code, text = run(capsys, command, "--out", "x", "--data", "x", "--tokenizer", "x")
    assert code == 2
    assert all(name in text for name in ("laptop", "one_gpu", "lwm_text_7b", "lwm_7b", "lwm_chat_7b"))
    assert text.count("Hardware: ") >= 5


def test_help_with_a_preset_lists_every_field_of_its_run(capsys):
    code, text = run(capsys, "train", *SMOKE, "--help")
    assert code == 0
    for option in ("--data", "--training.stages.1.learning-rate", "--execution.attention.layout"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--preset", "quikstart"), "quickstart"),
        (("--videos", "no/such/folder"), "no/such/folder"),
        (("--texts", "no/such/folder"), "no/such/folder"),
        (("--devices", "3"), "zigzag"),
        (("--devices", "0"), "--devices is 0"),
        (("--run.model.layers", "0"), "layers"),
        (("--run.model.mlp", "1" + 400 * "0"), "mlp"),
    ],
)
def test_what_the_user_can_fix_is_named_and_exits_with_2(arguments, named, tmp_path, capsys):
    smoke = () if "--preset" in arguments else SMOKE
    code, text = run(capsys, "quickstart", "--out", str(tmp_path / "out"), *smoke, *arguments)
    assert code == 2
    assert named in text
    assert "Traceback" not in text


def test_a_link_to_nothing_is_called_that(tmp_path, capsys):
    link = tmp_path / "clip.mp4"
    link.symlink_to(tmp_path / "gone.mp4")
    code, text = run(capsys, "quickstart", "--out", str(tmp_path / "out"), *SMOKE, "--videos", str(link))
    assert code == 2
    assert str(link) in text and "link" in text


def begin(out, config) -> None:
    """Write what a quickstart that was begun leaves."""
    identity = {"videos": [], "texts": [], "config": to_json(config)}
    write_origin(out, Origin(kind="quickstart", identity=identity, configuration=to_json(config.run)))
    (out / PHASES_FOLDER).mkdir()


def test_a_folder_that_holds_another_run_is_refused(tmp_path, capsys):
    begin(tmp_path, tiny())
    code, text = run(capsys, "quickstart", "--out", str(tmp_path), "--preset", "quickstart")
    assert code == 2
    assert str(tmp_path) in text and "config.toy_world.clips" in text
    assert read_origin(tmp_path).identity["config"] == to_json(tiny())


def test_a_call_that_was_refused_does_not_bind_the_next(tmp_path, capsys):
    out, texts = tmp_path / "out", tmp_path / "texts"
    texts.mkdir()
    for arguments in (("--devices", "3"), ("--texts", str(texts))):
        code, text = run(capsys, "quickstart", "--out", str(out), *SMOKE, *arguments)
        assert code == 2
        assert "config." not in text
        assert not (out / PHASES_FOLDER).exists()
    assert to_json(full()) != to_json(tiny())


WRITING = (
    ("quickstart", *SMOKE, "--videos", "x"),
    ("train-tokenizer", *SMOKE, "--videos", "x"),
    ("prepare", *SMOKE, "--videos", "x", "--tokenizer", "x"),
    ("train", *SMOKE, "--data", "x"),
    ("generate", "--kind", "text", "--prompt", "a", "--model", "x"),
    ("evaluate", "--model", "x", "--data", "x"),
)


@pytest.mark.parametrize("command", WRITING)
def test_a_folder_has_one_process_at_a_time(command, tmp_path, capsys):
    with only_one(tmp_path):
        code, text = run(capsys, *command, "--out", str(tmp_path))
    assert (code, str(tmp_path) in text) == (2, True)
    code, text = run(capsys, *command, "--out", str(tmp_path))  # and now it is x that is named
    assert (code, str(tmp_path) in text) == (2, False)


@pytest.mark.parametrize("command", WRITING)
def test_a_folder_of_files_that_are_not_ours_is_left_alone(command, tmp_path, capsys):
    (tmp_path / "clip.mp4").touch()
    code, text = run(capsys, *command, "--out", str(tmp_path))
    assert (code, str(tmp_path) in text) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_configuration_is_read_back_from_what_a_command_wrote(tmp_path, capsys):
    write_origin(tmp_path, Origin(kind="tokenizer", configuration=to_json(smoke())))
    options = ("--config", str(tmp_path), "--data", "no/such/data", "--out", str(tmp_path / "out"))
    code, text = run(capsys, "train", *options, "--devices", "2")
    assert code == 2
    assert "no/such/data" in text


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
        (OSError(errno.EFBIG, "File too large"), 2, "File too large"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, "Disk quota exceeded"),
        (RuntimeError("tensorstore: ... No space left on device"), 2, "tensorstore: ..."),
        (KeyboardInterrupt(), 130, ""),
        (Diverged("loss", value=float("nan"), step=7, of="stage 4K"), 1, "step 7"),
        (RenderTimeout("a chat template was not rendered"), 1, "a chat template"),
        (Stopped("SIGINT after step 3, saved", number=signal.SIGINT), 130, "SIGINT after step 3, saved"),
        (Stopped("SIGTERM after step 3, saved", number=signal.SIGTERM), 143, "SIGTERM after step 3, saved"),
    ],
)
def test_a_full_disk_a_divergence_and_signals_end_with_a_sentence(error, code, said, monkeypatch, capsys):
    def fail(self, config):
        raise error

    monkeypatch.setattr(Quickstart, "run", fail)
    ended, text = run(capsys, "quickstart", "--out", "x")
    assert ended == code
    assert said in text and "Traceback" not in text


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_a_name_that_is_no_text_is_shown_where_output_is_strict(encoding):
    program = (
        "from ringworld.cli import main\n"
        "main.Quickstart.run = lambda self, config: print(self.out)\n"
        "main.main()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "quickstart", "--out", b"caf\xe9"],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, b"caf\\udce9\n"), ran.stderr


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def fail(self, config):
        raise RuntimeError("a defect")

    monkeypatch.setattr(Quickstart, "run", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        command_line.main(["quickstart", "--out", "x"])
