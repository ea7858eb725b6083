"""A request for a video."""

from dataclasses import dataclass

import numpy as np

from ringworld.inference.engine.sequence import GenerationRequest
from ringworld.inference.world import World
from ringworld.serving.attachments import Attachments
from ringworld.serving.body import Body
from ringworld.serving.config import LEAST_RATE, MOST_RATE, ServingLimits
from ringworld.serving.drawing import drawing_of
from ringworld.serving.errors import ApiError
from ringworld.serving.form import Form, Upload

REFERENCE = "input_reference"
_MOST_SECONDS = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoRequest:
    """One that was read."""

    prompt: str
    drawn: GenerationRequest
    frames_per_second: float
    after: np.ndarray | None = None
    """Frames that those which are drawn follow."""

    @property
    def given_frames(self) -> int:
        """Frames that the video begins with."""
        return 0 if self.after is None else len(self.after)

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return (self.given_frames + self.drawn.frames) / self.frames_per_second

    @staticmethod
    def of(
        body: Body, world: World, *, limits: ServingLimits, sent: Upload | None, attachments: Attachments
    ) -> "VideoRequest":
        """Read the request; frames are as many as the model watches where neither they nor seconds are given.

        Args:
            body: of the request.
            world: that draws.
            limits: of the server.
            sent: a picture or a film that the video continues, where a form holds one.
            attachments: what reads it, or one that `body` names.

        Raises:
            InputError: a field has another type or is out of range, or the model draws nothing.
            ApiError: a field is not supported, frames have another size, or there are too many.
        """
        world.prompts.seeing()
        rate = body.number("fps", world.watching.frames_per_second, least=LEAST_RATE, most=MOST_RATE)
        if "num_frames" in body or "seconds" not in body:
            name, frames = (
                "num_frames",
                body.whole("num_frames", min(world.watching.max_frames, limits.max_frames), least=1),
            )
        else:
            name, frames = (
                "seconds",
                max(1, round(body.number("seconds", 0.0, above=0, most=_MOST_SECONDS) * rate)),
            )
        if frames > limits.max_frames:
            problem = f"{name} asks for {frames} frames, of {limits.max_frames} at most"
            raise ApiError(400, problem, param=name, code="too_many_frames")
        after = _reference(body, sent, attachments)
        drawn = drawing_of(body, world, frames=frames, after=after)
        return VideoRequest(prompt=body.text("prompt"), drawn=drawn, frames_per_second=rate, after=after)


def fields_of(form: Form) -> Body:
    """Return the fields of a form, those of a reference object as one: `input_reference[file_id]`."""
    within = {
        name: text
        for name, text in form.texts.items()
        if name.startswith(f"{REFERENCE}[") and name[-1] == "]"
    }
    plain = {name: text for name, text in form.texts.items() if name not in within}
    reference = {name[len(REFERENCE) + 1 : -1]: text for name, text in within.items()}
    return Body.of_form(plain, words=("prompt", "model", "size"), objects={REFERENCE: reference})


def _reference(body: Body, sent: Upload | None, attachments: Attachments) -> np.ndarray | None:
    """Return the frames of what a video continues; None where nothing is named."""
    if sent is not None:
        return attachments.frames(sent.content, kind="any", field=REFERENCE)
    if REFERENCE not in body:
        return None
    reference = body.part(REFERENCE)
    address = next((name for name in ("image_url", "video_url") if name in reference), None)
    if address is None:
        content = attachments.file(reference)
    else:
        content = attachments.at(reference.text(address), field=reference.path(address))
    return attachments.frames(content, kind="any", field=REFERENCE)
