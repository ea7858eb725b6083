"""`ringworld generate`: text, answers, images and videos from a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ringworld.cli.options import ConfigOptions, Devices, otherwise

_CONFIGURED = "as the model's configuration says"


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate:
    """Go on with a text, answer a question about a video or a document, or draw an image or a video."""

    kind: Literal["text", "answer", "image", "video"]
    """What to make."""
    prompt: str
    """Text to go on with, question to answer, or caption to draw."""
    model: Path
    """Folder that train wrote."""
    tokenizer: Path
    """Folder that train-tokenizer wrote."""
    out: Path
    """Folder for the result: output.json, and image.png or video.mp4."""
    about: Annotated[Path | None, otherwise("the question stands alone", metavar="PATH")] = None
    """For an answer: the video, image or text file that is asked about."""
    frames: int = 6
    """For a video: its length in frames."""
    max_new_tokens: int = 64
    """For text and answers: longest result, in tokens."""
    temperature: Annotated[float | None, otherwise(_CONFIGURED, metavar="FLOAT")] = None
    """Divides the logits; 0 takes the likeliest token."""
    top_k: Annotated[int | None, otherwise(_CONFIGURED, metavar="INT")] = None
    """Draw among so many of the likeliest tokens; 0 keeps all."""
    guidance_scale: Annotated[float | None, otherwise(_CONFIGURED, metavar="FLOAT")] = None
    """Classifier-free guidance of images and videos; 1 is none."""
    seed: int = 0
    """The same seed gives the same result."""
    devices: Devices = None
    """Members of the ring; without an accelerator they are simulated."""

    def run(self) -> None:
        """Make it, and print it or where it is."""
        from ringworld.cli.jobs.generation import generate

        print(generate(self, ConfigOptions(config=self.model).load()))
