"""`ringworld chat`: a conversation on a terminal, or over pipes: a line is a question, or a command."""

import io
import os
import signal
import sys
from pathlib import Path
from typing import Literal

from ringworld.api.load import load
from ringworld.api.machine import PathArgument
from ringworld.core.errors import InputError, RenderTimeout, Stopped, not_a_choice
from ringworld.core.files import write_json_atomic
from ringworld.core.stop import StopRequest
from ringworld.inference.config import TextSampling
from ringworld.inference.conversation import AnswerStats, Conversation
from ringworld.inference.world import World
from ringworld.model.config import WeightType
from ringworld.text.read_text import read_text
from ringworld.text.templates import LLAMA_2, LWM

HELP = """\
/file PATH    ask about a text file       /system TEXT  begin again, with a system message
/video PATH   ask about a video           /reset        begin again
/image PATH   ask about an image          /save PATH    write the conversation as JSON
/keep FOLDER  keep what was read          /reopen FOLDER  continue what was kept
/history      show the conversation       /help, /quit  this list, the end
Ctrl-C stops an answer or a command; at the prompt, twice, it ends the chat."""
_WITH_PATH = ("file", "video", "image", "save", "keep", "reopen")
_COMMANDS = (*_WITH_PATH, "system", "reset", "history", "help", "quit")
_MOST_BYTES = 2**28
_SHORT_TOKENS = 4096
"""Of a conversation that is read without saying how far it is."""
_SAVED = b'{\n  "messages": ['
"""How a conversation that was saved begins."""
_TEMPLATES = {"own": None, "lwm": LWM, "llama-2": LLAMA_2}
_UNSEEN = {code: None for code in (*range(9), *range(11, 32), *range(127, 160))}
"""Control characters, with which a model could rewrite a terminal; line breaks and tabs stay."""


def chat(
    model: PathArgument,
    *,
    file: PathArgument | None = None,
    video: PathArgument | None = None,
    image: PathArgument | None = None,
    system: str | None = None,
    template: Literal["own", "lwm", "llama-2"] = "own",
    max_new_tokens: int = 1024,
    sampling: TextSampling | None = None,
    weights: WeightType | None = None,
    devices: int | None = None,
) -> None:
    """Answer the lines of stdin on stdout until it ends; all else is said on stderr.

    Args:
        model: model folder.
        file: text that the first question is about.
        video: video that it is about.
        image: image that it is about.
        system: what the model is told beforehand.
        template: which chat template; `own` is what came with the model.
        max_new_tokens: most tokens of an answer.
        sampling: how answers are drawn, where it differs from the model's defaults.
        weights: how its weights are kept, as in `load`.
        devices: of the ring.

    Raises:
        InputError: the model, a file or the template cannot be used, or a number is out of range.
    """
    if template not in _TEMPLATES:
        raise not_a_choice("template", str(template), choices=_TEMPLATES)
    world = load(model, devices=devices, weights=weights)
    drawn = sampling or TextSampling()
    conversation = world.chat(
        system=system, template=_TEMPLATES[template], max_new_tokens=max_new_tokens, **drawn
    )
    terminal = _Terminal(world, conversation)
    for name, path in (("file", file), ("video", video), ("image", image)):
        if path is not None:
            terminal.add(name, Path(path))
    terminal.run()


class _Terminal:
    """Lines in, answers out."""

    def __init__(self, world: World, conversation: Conversation) -> None:
        self._world, self._conversation = world, conversation
        self._asks = sys.stdin.isatty()
        if isinstance(sys.stdin, io.TextIOWrapper):
            # What is no text is refused as a question, and names a file as the system has it.
            sys.stdin.reconfigure(errors="surrogateescape")
        if self._asks:
            import readline  # noqa: F401 (lines can be edited, and earlier ones come back)

            _say("/help lists what can be typed.")

    def run(self) -> None:
        """Take lines until there are no more."""
        while (line := self._line()) is not None:
            name, _, rest = line.removeprefix("/").partition(" ")
            try:
                if not line.startswith("/"):
                    self._answer(line)
                elif name == "quit":
                    return
                else:
                    self._interruptible(name, rest.strip())
            except (InputError, RenderTimeout) as error:
                _say(f"error: {error}")
            except BrokenPipeError:  # nobody reads the answers any more
                raise
            except OSError as error:
                reason = error.strerror or error
                _say(f"error: {rest}: {reason}" if name in _WITH_PATH else f"error: {reason}")

    def add(self, name: str, path: Path) -> None:
        """Add a file to the next question."""
        if name == "file":
            self._conversation.add_document(read_text(path, max_bytes=_MOST_BYTES))
        elif name == "video":
            self._conversation.add_clip(self._world.codes(video=path))
        else:
            self._conversation.add_clip(self._world.codes(image=path))
        _say(f"{path} is part of the next question")

    def _line(self) -> str | None:
        """Return the next line with something in it; None at the end."""
        interrupted = False
        while True:
            try:
                line = input("> " if self._asks else "").strip()
            except EOFError:
                return None
            except KeyboardInterrupt:
                if interrupted or not self._asks:
                    raise
                interrupted = True
                _say("\nCtrl-C once more, or /quit, ends the chat.")
                continue
            if line:
                return line

    def _interruptible(self, name: str, rest: str) -> None:
        """Obey a command; a Ctrl-C ends it and not the chat."""
        try:
            self._command(name, rest)
        except KeyboardInterrupt:
            _say(f"\n/{name} stops here")

    def _command(self, name: str, rest: str) -> None:
        if name not in _COMMANDS:
            raise not_a_choice("command", name, choices=_COMMANDS)
        if name in (*_WITH_PATH, "system") and not rest:
            kind = "some text" if name == "system" else "a path"
            raise InputError(f"/{name} needs {kind}", field=name)
        if name in _WITH_PATH and "\0" in rest:
            raise InputError(f"/{name} needs a path, which has no zero byte", field=name)
        path = Path(os.path.expanduser(rest) if name in _WITH_PATH else "")
        match name:
            case "file" | "video" | "image":
                self.add(name, path)
            case "save":
                self._save(path)
                _say(f"wrote {path}")
            case "keep":
                kept = self._conversation.keep(path, on_read=self._on_read)
                _say(f"kept {len(kept.ids):,} tokens in {path}, {kept.size_bytes / 1e6:,.1f} MB")
            case "reopen":
                kept = self._conversation.reopen(path)
                _say(f"reopened {len(kept.ids):,} tokens; /history shows the conversation")
            case "system" | "reset":
                self._conversation.reset(system=rest or None)
                _say("a new conversation")
            case "history":
                for message in self._conversation.messages:
                    print(f"{message.role}: {message.text.translate(_UNSEEN)}", flush=True)
            case "help":
                _say(HELP)

    def _save(self, path: Path) -> None:
        """Write the conversation as JSON, over one that was saved before, but over nothing else."""
        if path.exists() and not (path.is_file() and _is_saved(path)):
            problem = f"{path} is there already, and holds no conversation"
            raise InputError(problem, field="save", path=path, remedy="name a new file")
        write_json_atomic(path, self._conversation.to_json())

    def _on_read(self, done: int, total: int) -> None:
        if self._asks and total > _SHORT_TOKENS:
            end = "\n" if done == total else ""
            print(f"\rread {done:,} of {total:,} tokens", end=end, file=sys.stderr, flush=True)

    def _answer(self, question: str) -> None:
        said, before = False, self._conversation.last_answer
        with StopRequest(says="the answer stops here; once more ends the chat") as request:
            for part in self._conversation.ask(
                question, stop=lambda: request.signal is not None, on_read=self._on_read
            ):
                said = said or bool(part)
                print(part.translate(_UNSEEN), end="", flush=True)
        if said:
            print(flush=True)
        if request.signal is signal.SIGTERM:
            raise Stopped("", number=request.signal)
        if self._conversation.last_answer is not before and self._conversation.last_answer:
            _say(summary(self._conversation.last_answer))


def _is_saved(file: Path) -> bool:
    """Return whether a file holds a conversation that was saved, or nothing."""
    with file.open("rb") as stream:
        return stream.read(len(_SAVED)) in (b"", _SAVED)


def summary(answer: AnswerStats) -> str:
    """Return what an answer cost, in a line.

    Example:
        `[1,234 tokens, of which 56 were read at 345 tokens/s; 64 written at 28.1 tokens/s; 16% of 8,192]`
    """
    read, write = (
        f"{tokens / max(seconds, 1e-6):.3g} tokens/s"
        for tokens, seconds in (
            (answer.read_tokens, answer.read_seconds),
            (answer.written_tokens, answer.write_seconds),
        )
    )
    cut = ", cut at the most tokens of an answer" if answer.finish == "length" else ""
    return (
        f"[{answer.prompt_tokens:,} tokens, of which {answer.read_tokens:,} were read at {read}; "
        f"{answer.written_tokens:,} written at {write}{cut}; "
        f"{answer.context_share:.0%} of {answer.context_tokens:,}]"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
