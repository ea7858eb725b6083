"""`ringworld chat`: talk with a model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from ringworld.cli.options import Loaded, LoadOptions, Sampled, TokenOptions, given, otherwise


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """Talk with a model, about a text, a video or an image if you like; /help lists what can be typed."""

    model: Path
    """Model folder, or adapter folder."""
    file: Annotated[Path | None, otherwise("none", metavar="PATH")] = None
    """Text file that the first question is about."""
    video: Annotated[Path | None, otherwise("none", metavar="PATH")] = None
    """Video that the first question is about."""
    image: Annotated[Path | None, otherwise("none", metavar="PATH")] = None
    """Image that the first question is about."""
    system: Annotated[str | None, otherwise("as the template of the model says", metavar="TEXT")] = None
    """What the model is told beforehand."""
    template: Literal["own", "lwm", "llama-2"] = "own"
    """How turns are written: own is what came with the model, or lwm if none did."""
    max_new_tokens: int = 1024
    """Longest answer, in tokens."""
    drawn: Sampled = TokenOptions()
    loading: Loaded = LoadOptions()

    def run(self) -> None:
        """Answer lines of stdin until it ends."""
        import ringworld as rw
        from ringworld.inference.config import TextSampling

        options = given(self, "file", "video", "image", "system", "template", "max_new_tokens")
        sampling = TextSampling(**asdict(self.drawn))
        rw.chat(self.model, sampling=sampling, **options, **asdict(self.loading))
