"""How Sphinx builds these pages: `make docs`. Nothing is fetched, and a warning is an error."""

import dataclasses
import pydoc
import re
from typing import Any

import jax
from docutils.nodes import Node
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

# Of the annotations that are made from here on: `Array`, without the private module that holds it.
jax.Array.__name__ = "Array"
import ringworld  # noqa: E402

PUBLIC = frozenset(getattr(ringworld, "__all__", ()))

project = "ringworld"
author = "the ringworld authors"
release = version = ringworld.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"ringworld {release}"
html_show_copyright = False
html_copy_source = False
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# A longer signature is written one parameter a line, as in the source.
maximum_signature_line_length = 80
python_display_short_literal_types = True

# A type of ours that a signature names must have an entry. Those of other libraries would have to be fetched.
nitpick_ignore_regex = [("py:.*", r"(?!ringworld\.).*")]
# Type variables, and inner parts that a documented one is made of.
nitpick_ignore = [
    ("py:class", name)
    for name in (
        "ringworld.attention.config.Axis",
        "ringworld.evaluation.task.ContentT",
        "ringworld.evaluation.haystack.Haystack",
        "ringworld.data.batch.PackedRows",
        "ringworld.inference.engine.engine.T",
        "ringworld.inference.engine.programs.Programs",
        "ringworld.inference.engine.scheduler.Scheduler",
        "ringworld.model.layers.Layer",
        "ringworld.model.rope.Frequencies",
        "ringworld.vision.vqgan.FrameAutoencoder",
    )
]

_logger = logging.getLogger(__name__)


class Markdown(SphinxDirective):
    """Markdown inside the reStructuredText that autodoc generates."""

    has_content = True

    def run(self) -> list[Node]:
        """Return the parsed content."""
        document = new_document(self.get_source_info()[0], self.state.document.settings)
        document.reporter = self.state.document.reporter
        MystParser().parse("\n".join(self.content), document)
        return document.children


def render_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn the Google sections of a docstring into fields, and have all of it parsed as Markdown."""
    if what in {"attribute", "data", "property"}:
        text = "\n".join(lines) + default_of_field(name)
    else:
        config = Config(napoleon_use_ivar=True)
        text = str(GoogleDocstring(lines, config, app, what, name, obj, options))
        if error := re.search(r"^:raises [^:]* .*", text, flags=re.MULTILINE):
            _logger.warning("%s: a section has a line that is not indented: %s", name, error[0])
        text = re.sub(r"^\.\. rubric:: (.*)$", r"**\1**", text, flags=re.MULTILINE).replace(
            ":ivar ", ":param "
        )
    if text.strip():
        lines[:] = [".. markdown::", "", *(f"   {line}" for line in text.splitlines()), ""]


def default_of_field(name: str) -> str:
    """Return a sentence with the default of a dataclass's field, empty if there is none."""
    owner, _, attribute = name.rpartition(".")
    cls = pydoc.locate(owner)
    fields = dataclasses.fields(cls) if isinstance(cls, type) and dataclasses.is_dataclass(cls) else ()
    for field in fields:
        if field.name != attribute:
            continue
        if field.default is not dataclasses.MISSING:
            return f"\n\nDefault: `{field.default!r}`."
        if isinstance(field.default_factory, type):
            return f"\n\nDefault: `{field.default_factory.__name__}()`."
    return ""


def hide_listed_signature(
    _app: Sphinx, what: str, _name: str, obj: Any, _options: Any, _signature: str | None, _returns: str | None
) -> tuple[str, None] | None:
    """Leave out the signature of a dataclass whose fields are all listed below it, with their types."""
    if what != "class" or not dataclasses.is_dataclass(obj):
        return None
    documented = ModuleAnalyzer.for_module(obj.__module__).find_attr_docs()
    all_listed = all((obj.__qualname__, field.name) in documented for field in dataclasses.fields(obj))
    return ("", None) if all_listed else None


def listed_once(app: Sphinx, what: str, name: str, _obj: Any, _skip: bool, _options: Any) -> bool | None:
    """Skip in the module that defines it what `ringworld` itself offers and so lists."""
    module = app.env.current_document.autodoc_module
    return True if what == "module" and module != "ringworld" and name in PUBLIC else None


def check_public_names(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names without an entry: autodoc passes over modules, and what `dir` does not show."""
    entries = env.domains.python_domain.objects.items()
    kinds = {"class", "exception", "function"}
    listed = {name.rpartition(".")[2] for name, entry in entries if entry.objtype in kinds}
    for name in sorted(PUBLIC - listed - {"presets"}):
        _logger.warning("ringworld.%s has no entry in api.md", name)


def setup(app: Sphinx) -> None:
    """Register the above."""
    app.add_directive("markdown", Markdown)
    # Readers of the repository see the diagram; its renderer for pages is a script from elsewhere.
    app.add_lexer("mermaid", TextLexer)
    app.connect("autodoc-process-docstring", render_docstring)
    app.connect("autodoc-process-signature", hide_listed_signature)
    app.connect("autodoc-skip-member", listed_once)
    app.connect("env-check-consistency", check_public_names)
