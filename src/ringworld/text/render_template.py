"""Render chat templates in a process of its own, which has little time, little memory and no files to write.

A template is a program that came with a model. Jinja's sandbox keeps it from Python and from the system, but
not from loops without end, from `10 ** 10 ** 10` or from a string of a gigabyte; the limits of a process do.
Run as a script by `templates`: a request as a line of JSON on stdin, the texts or a refusal as one on stdout,
and so on until stdin ends. It imports nothing of ringworld, so that it starts within a fraction of a second.
"""

import json
import sys
import time
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

try:
    import resource
except ImportError:
    resource = None

_MOST_BYTES = 2**31
_LONGEST_REASON = 2**12


class Generation(Extension):
    """`{% generation %}` marks what an assistant said, for training; here it stands for what is in it."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what the block holds."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(request: dict[str, Any]) -> list[str]:
    """Render a template once for each of several sets of variables, as transformers does.

    Raises:
        TemplateError: the template has an error, refuses what it is given, or writes too much.
    """
    template = _compiled(request["template"])
    texts = []
    for variables in request["renderings"]:
        parts, characters = [], 0
        for part in template.generate(**variables):
            parts.append(part)
            characters += len(part)
            if characters > request["most_characters"]:
                _refuse(f"it writes more than {request['most_characters']} characters")
        texts.append("".join(parts))
    return texts


@lru_cache(maxsize=1)
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes what HTML would read otherwise. Templates call this with transformers' arguments.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _limit() -> None:
    """Take away what no template needs; Windows has no limits but the caller's timeout."""
    if resource is not None:
        for kind, most in (
            (resource.RLIMIT_AS, _MOST_BYTES),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
        ):
            _set_limit(kind, most, most)


def _limit_seconds(seconds: int) -> None:
    """Let the process compute for so many more seconds."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        _set_limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + seconds, most)


def _set_limit(kind: int, soft: int, hard: int) -> None:
    assert resource is not None
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, OSError):  # a system that has no such limit, or a lower one
        pass


def main() -> None:
    """Answer requests until there are no more."""
    _limit()
    for line in sys.stdin:
        request = json.loads(line)
        _limit_seconds(request["seconds"])
        try:
            answer = {"texts": render(request)}
        except MemoryError:
            answer = {}
        except Exception as error:  # whatever a template can make of its variables
            answer = {"refused": str(error)[:_LONGEST_REASON].strip() or type(error).__name__}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
