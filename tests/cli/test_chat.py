"""`ringworld chat` as a process: lines in, answers out."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ringworld
from ringworld.api.load import load


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
    assert chat.turn is not None
    assert f"{chat.turn.prompt_tokens:,}" in said


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
