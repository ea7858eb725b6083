"""`ringworld generate`: text, answers, images and videos from a trained model."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from ringworld.cli.options import CONFIGURED, Devices, Drawn, TokenOptions, Weights, otherwise
from ringworld.core.errors import InputError

_ONLY_FOR = {
    "about": ("answer",),
    "frames": ("video",),
    "max_new_tokens": ("text", "answer"),
    "stop": ("text", "answer"),
    "samples": ("text",),
    "guidance_scale": ("image", "video"),
}
"""Options that not every kind heeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate:
    """Continue a text, answer a question about a video or a document, or draw an image or a video."""

    kind: Literal["text", "answer", "image", "video"]
    """What to make."""
    prompt: str
    """Text to continue, question to answer, or caption to draw."""
    model: Path
    """Model folder."""
    out: Path
    """Folder for the result: output.json, and image.png or video.mp4."""
    about: Annotated[Path | None, otherwise("the question stands alone", metavar="PATH")] = None
    """For an answer: the video, image or text file that is asked about."""
    frames: int = 6
    """For a video: its length in frames."""
    max_new_tokens: int = 64
    """For text and answers: longest result, in tokens."""
    drawn: Drawn = TokenOptions()
    stop: Annotated[tuple[str, ...], otherwise("none", metavar="[TEXT [TEXT ...]]")] = ()
    """For text and answers: strings before which the result ends."""
    samples: int = 1
    """For text: results that are drawn, the first of which is printed and all of which are written."""
    guidance_scale: Annotated[float | None, otherwise(CONFIGURED, metavar="FLOAT")] = None
    """Classifier-free guidance of images and videos; 1 is none."""
    weights: Weights = None
    """Type in which weights are kept; int8 rounds them, each output channel by itself."""
    devices: Devices = None
    """Devices of the ring; without an accelerator they are simulated."""

    def run(self) -> None:
        """Make it, and print it or where it is."""
        from ringworld.api.generate import generate

        self.check_kind()
        print(
            generate(
                self.model,
                kind=self.kind,
                prompt=self.prompt,
                out=self.out,
                about=self.about,
                frames=self.frames,
                max_new_tokens=self.max_new_tokens,
                stop=self.stop,
                samples=self.samples,
                sampling={**self.drawn.given, "guidance_scale": self.guidance_scale},
                weights=self.weights,
                devices=self.devices,
            )
        )

    def check_kind(self) -> None:
        """Refuse an option that the kind would not heed.

        Raises:
            InputError: there is one, with another value than it has if it is left out.
        """
        default = {option.name: option.default for option in fields(self)}
        for name, kinds in _ONLY_FOR.items():
            value = getattr(self, name)
            if self.kind not in kinds and value != default[name]:
                problem = f"{name} applies to {' and '.join(kinds)}, not to {self.kind}"
                raise InputError(problem, field=name, value=value)
