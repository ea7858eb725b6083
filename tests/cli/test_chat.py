"""`ringworld chat` as a process: lines in, answers out."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ringworld
from ringworld.api.chat import chat as talk
from ringworld.api.load import load
from ringworld.core.errors import RenderTimeout
from ringworld.inference.conversation import Conversation
from ringworld.inference.world import World
from ringworld.vision.write_media import write_image, write_video
from tests.report.sample_run import moving_square


def start(model: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ringworld", "chat", "--model", str(model), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(ringworld.__file__).parents[1])},
    )


def test_lines_are_answered_commands_are_obeyed_and_errors_do_not_end_the_chat(model, tmp_path):
    book = tmp_path / "a book.txt"
    book.write_text("A red circle moves to the right. " * 9, encoding="utf-8")
    lines = [
        "Red?",
        "",
        "/nonsense",
        f"/file {tmp_path / 'none.txt'}",
        "/image",
        f"/file {book}",
        "Why?",
        f"/save {tmp_path / 'said.json'}",
        f"/save {book / 'said.json'}",
        "x" * 60_000,
        "/history",
        "/reset",
        f"/save {tmp_path / 'empty.json'}",
        "/quit",
        "never asked",
    ]
    process = start(model, "--max-new-tokens", "6", "--system", "Be brief.")
    out, said = process.communicate("\n".join(lines), timeout=300)
    assert process.returncode == 0, said
    chat = load(model).chat(max_new_tokens=6, system="Be brief.")
    answers = ["".join(chat.ask("Red?"))]
    chat.add_document(book.read_text())
    answers.append("".join(chat.ask("Why?")))
    shown = "\n".join(answers)
    hidden = {character: "" for character in shown if not character.isprintable() and character not in "\n\t"}
    assert out.startswith(shown.translate(str.maketrans(hidden)))
    assert json.loads((tmp_path / "said.json").read_text()) == chat.to_json()
    assert json.loads((tmp_path / "empty.json").read_text()) == {"messages": []}
    assert out.count("user: ") == 2
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 5
    assert "none.txt" in errors[1]
    assert chat.last_answer is not None
    assert f"{chat.last_answer.prompt_tokens:,}" in said


def test_files_videos_and_images_are_shown_with_the_next_question(seeing, tmp_path):
    book, video, image = (tmp_path / name for name in ("book.txt", "clip.mp4", "picture.png"))
    book.write_text("A red circle moves to the right.", encoding="utf-8")
    write_video(video, moving_square(color=(9, 99, 9)), frames_per_second=4)
    write_image(image, moving_square(color=(99, 9, 9))[0])
    options = ("--file", book, "--video", video, "--image", image, "--max-new-tokens", "6")
    lines = ["Red?", f"/image {image}", f"/video {video}", f"/video {image.with_name('none')}", "Why?"]
    process = start(seeing, *map(str, options))
    _, said = process.communicate("\n".join([*lines, f"/save {tmp_path / 'said.json'}"]), timeout=300)
    assert process.returncode == 0, said
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
    world = load(seeing)
    clips = {"video": world.codes(video=video), "image": world.codes(image=image)}
    chat = world.chat(max_new_tokens=6)
    chat.add_document(book.read_text())
    for question, shown in (("Red?", ("video", "image")), ("Why?", ("image", "video"))):
        for name in shown:
            chat.add_clip(clips[name])
        list(chat.ask(question))
    assert json.loads((tmp_path / "said.json").read_text()) == chat.to_json()
    assert len(clips["image"]) == 1 < len(clips["video"])


def talk_in_process(model: Path, lines: bytes, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    talk(model, max_new_tokens=6, **options)


def test_what_cannot_be_done_leaves_files_alone_and_does_not_end_the_chat(
    model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    notes, said = tmp_path / "notes.json", tmp_path / "said.json"
    notes.write_text('{"mine": []}')
    refused = ["/save .", "/save /", "/save notes.json", "/save /dev/zero", "/save a\0b", "/file a\0b"]
    refused += ["/file .", "/file ~nobody-here/book.txt", "/file /dev/null", "/keep .", "/image notes.json"]
    lines = [*(line.encode() for line in refused), b"caf\xe9?", b"/save said.json"]
    talk_in_process(model, b"\n".join([*lines, b"/save said.json"]), monkeypatch)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(refused) + 1
    assert notes.read_text() == '{"mine": []}'
    assert json.loads(said.read_text()) == {"messages": []}
    assert sorted(tmp_path.iterdir()) == [notes, said]


def test_a_machine_that_is_too_busy_does_not_end_the_chat(model, tmp_path, monkeypatch):
    def late(*turn: Any, **options: Any) -> Any:
        raise RenderTimeout("late")

    monkeypatch.setattr(Conversation, "ask", late)
    talk_in_process(model, f"Red?\n/save {tmp_path / 'said.json'}\n".encode(), monkeypatch)
    assert (tmp_path / "said.json").exists()


def test_the_chat_ends_when_nobody_reads_its_answers(model, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        talk_in_process(model, b"/history\n/history\n", monkeypatch, system="Be brief.")


def test_ctrl_c_stops_a_command_and_not_the_chat(seeing, tmp_path, monkeypatch):
    said = tmp_path / "said.json"

    def interrupted(world: World, **asked: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(World, "codes", interrupted)
    talk_in_process(seeing, f"/video a.mp4\n/save {said}\n".encode(), monkeypatch)
    assert json.loads(said.read_text()) == {"messages": []}


def test_ctrl_c_stops_an_answer_and_not_the_chat(model, tmp_path):
    process = start(model, "--max-new-tokens", "15000", "--temperature", "1")
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write("Red?\n")
    process.stdin.flush()
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(f"/save {tmp_path / 'said.json'}\n", timeout=300)
    assert process.returncode == 0, said
    messages = json.loads((tmp_path / "said.json").read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert len(messages[1]["content"]) < 15_000


def test_a_model_that_is_not_there_is_an_error_of_the_user(tmp_path):
    process = start(tmp_path / "none")
    _, said = process.communicate("Red?\n", timeout=100)
    assert process.returncode == 2
    assert "none" in said


def test_what_was_kept_goes_on_in_another_process_on_another_mesh(model, tmp_path):
    book, kept = tmp_path / "book.txt", tmp_path / "kept"
    book.write_text("A red circle moves to the right. " * 9, encoding="utf-8")
    first = [f"/file {book}", "Red?", f"/keep {kept}", "Why?", "/keep", f"/keep {tmp_path}"]
    process = start(model, "--max-new-tokens", "6")
    out, said = process.communicate("\n".join(first), timeout=300)
    assert process.returncode == 0, said
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 2
    other = start(model, "--max-new-tokens", "6", "--devices", "2")
    again, told = other.communicate(f"/reopen {tmp_path / 'none'}\n/reopen {kept}\nWhy?", timeout=300)
    assert other.returncode == 0, told
    assert out.endswith(again) and again.strip()
    assert len([line for line in told.splitlines() if line.startswith("error: ")]) == 1
