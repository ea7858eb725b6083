"""`ringworld chat`: talk with a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ringworld.cli.options import Devices, Weights, otherwise

_CONFIGURED = "as the model folder says"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """Talk with a model, about a text, a video or an image if you like; /help lists what can be typed."""

    model: Path
    """Model folder."""
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
    temperature: Annotated[float | None, otherwise(_CONFIGURED, metavar="FLOAT")] = None
    """Divides the logits; 0 takes the likeliest token."""
    top_k: Annotated[int | None, otherwise(_CONFIGURED, metavar="INT")] = None
    """Draw among so many of the likeliest tokens; 0 keeps all."""
    top_p: Annotated[float | None, otherwise(_CONFIGURED, metavar="FLOAT")] = None
    """Draw among the fewest likeliest tokens that are together at least so likely; 1 keeps all."""
    min_p: Annotated[float | None, otherwise(_CONFIGURED, metavar="FLOAT")] = None
    """Draw among tokens at least so likely, as a share of the likeliest; 0 keeps all."""
    repetition_penalty: Annotated[float | None, otherwise(_CONFIGURED, metavar="FLOAT")] = None
    """Makes tokens that the conversation holds less likely; 1 is none."""
    seed: int = 0
    """The same seed and questions give the same answers."""
    weights: Weights = None
    """Type in which weights are kept; int8 rounds them, each output channel by itself."""
    devices: Devices = None
    """Devices of the ring; without an accelerator they are simulated."""

    def run(self) -> None:
        """Answer lines of stdin until it ends."""
        from ringworld.api.chat import chat

        chat(
            self.model,
            file=self.file,
            video=self.video,
            image=self.image,
            system=self.system,
            template=self.template,
            max_new_tokens=self.max_new_tokens,
            sampling={
                "temperature": self.temperature,
                "top_k": self.top_k,
                "top_p": self.top_p,
                "min_p": self.min_p,
                "repetition_penalty": self.repetition_penalty,
                "seed": self.seed,
            },
            weights=self.weights,
            devices=self.devices,
        )
