"""`ringworld generate`: text, answers, images and videos from a trained model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from ringworld.cli.options import CONFIGURED, Loaded, LoadOptions, Sampled, TokenOptions, given, otherwise


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate:
    """Continue a text, answer a question about a video or a document, or draw an image or a video."""

    kind: Literal["text", "answer", "image", "video"]
    """What to make."""
    prompt: str
    """Text to continue, question to answer, or caption to draw."""
    model: Path
    """Model folder, or adapter folder."""
    out: Path
    """Folder for the result: output.json, and image.png or video.mp4."""
    about: Annotated[Path | None, otherwise("the question stands alone", metavar="PATH")] = None
    """For an answer: the video, image or text file that is asked about."""
    frames: Annotated[int | None, otherwise("6", metavar="INT")] = None
    """For a video: its length in frames."""
    max_new_tokens: Annotated[int | None, otherwise("64", metavar="INT")] = None
    """For text and answers: longest result, in tokens."""
    drawn: Sampled = TokenOptions()
    stop: Annotated[tuple[str, ...], otherwise("none", metavar="[TEXT [TEXT ...]]")] = ()
    """For text and answers: strings before which the result ends."""
    samples: Annotated[int | None, otherwise("1", metavar="INT")] = None
    """For text and answers: results that are drawn; the first is printed, and all are written."""
    guidance_scale: Annotated[float | None, otherwise(CONFIGURED, metavar="FLOAT")] = None
    """Classifier-free guidance of images and videos; 1 is none."""
    loading: Loaded = LoadOptions()

    def run(self) -> None:
        """Make it, and print it or where it is."""
        import ringworld as rw

        names = ("kind", "prompt", "out", "about", "frames", "max_new_tokens", "stop", "samples")
        sampling = {**asdict(self.drawn), "guidance_scale": self.guidance_scale}
        print(rw.generate(self.model, sampling=sampling, **given(self, *names), **asdict(self.loading)))
