"""A model as people use it: words, pictures and files in, words and pictures out."""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, SupportsIndex, Unpack, overload

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int32, UInt8

from ringworld.core.errors import InputError
from ringworld.core.ranges import whole_number
from ringworld.inference.arguments import sampling_with, text_of, texts_of
from ringworld.inference.completion import Completion, TextScore
from ringworld.inference.config import (
    DrawingSampling,
    EngineConfig,
    GenerationLimits,
    SamplingConfig,
    SamplingDefaults,
    TextSampling,
    WatchingConfig,
)
from ringworld.inference.conversation import Conversation
from ringworld.inference.engine.engine import Engine
from ringworld.inference.engine.keeping import Check, keep, recall, unchecked
from ringworld.inference.engine.sequence import GenerationRequest
from ringworld.inference.generator import Generator
from ringworld.inference.memory import Memory, save_memory
from ringworld.inference.prompts import Codes, Ids, Prompts
from ringworld.inference.questions import Pictures, frames_of, question_prompt
from ringworld.inference.scorer import Scorer
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.text.stream import TextStream
from ringworld.text.templates import ChatTemplate, Message
from ringworld.vision.media import media_format


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class World:
    """One model with its tokenizers on the devices of one mesh.

    Where a method leaves sampling out, the model's own defaults hold. The same seed and prompt give the same
    output, whatever else is asked in one call.

    Example:
        >>> world.complete("A red circle moves to the")
        >>> world.answer("What color is the shape?", video="clip.mp4")
        >>> world.draw("a red circle that moves to the right", frames=16)
    """

    prompts: Prompts
    """Words and frames to ids and back."""
    generator: Generator
    """Continues ids."""
    scorer: Scorer
    """Scores ids."""
    sampling: SamplingDefaults
    """How ids are drawn where the caller does not say."""
    watching: WatchingConfig
    """How videos are read."""

    @staticmethod
    def of(
        weights: GenerationWeights,
        *,
        forward: Forward,
        prompts: Prompts,
        mesh: Mesh,
        limits: GenerationLimits,
        sampling: SamplingDefaults | None = None,
        watching: WatchingConfig | None = None,
        ends: Sequence[int] | None = None,
    ) -> "World":
        """Join the parts of one model.

        Args:
            weights: in the compute type, on `mesh`.
            forward: rotary frequencies of the stage that made them, and configuration.
            prompts: its tokenizers.
            mesh: as made by `core.mesh`.
            limits: the model's context, and how much is decoded at once.
            sampling: how ids are drawn where the caller does not say.
            watching: how videos are read.
            ends: ids after each of which a text is finished; by default the tokenizer's `eos`.

        Raises:
            InputError: the parts do not belong together.
        """
        generator = Generator(
            weights,
            forward=forward,
            vocabulary=prompts.vocabulary,
            ends=[prompts.tokenizer.eos] if ends is None else ends,
            mesh=mesh,
            limits=limits,
        )
        return World(
            prompts=prompts,
            generator=generator,
            scorer=Scorer(weights, forward=forward, mesh=mesh),
            sampling=sampling or SamplingDefaults(),
            watching=watching or WatchingConfig(),
        )

    @overload
    def complete(
        self,
        texts: str,
        *,
        max_new_tokens: SupportsIndex = 64,
        stop: str | Sequence[str] = (),
        **sampling: Unpack[TextSampling],
    ) -> str: ...

    @overload
    def complete(
        self,
        texts: Sequence[str],
        *,
        max_new_tokens: SupportsIndex = 64,
        stop: str | Sequence[str] = (),
        **sampling: Unpack[TextSampling],
    ) -> list[str]: ...

    def complete(
        self,
        texts: str | Sequence[str],
        *,
        max_new_tokens: SupportsIndex = 64,
        stop: str | Sequence[str] = (),
        **sampling: Unpack[TextSampling],
    ) -> str | list[str]:
        """Continue a text, or each of several; return only what is new.

        Args:
            texts: one or several.
            max_new_tokens: most tokens of what follows each.
            stop: strings before which the text ends.
            sampling: as in `SamplingConfig`.

        Raises:
            InputError: a text and what follows it do not fit into the context, or a number is out of range.
        """
        written = self.completions(texts, max_new_tokens=max_new_tokens, stop=stop, **sampling)
        words = [completion.text for completion in written]
        return words[0] if isinstance(texts, str) else words

    def completions(
        self,
        texts: str | Sequence[str],
        *,
        samples: SupportsIndex = 1,
        max_new_tokens: SupportsIndex = 64,
        stop: str | Sequence[str] = (),
        **sampling: Unpack[TextSampling],
    ) -> list[Completion]:
        """Continue each text several times; return text, tokens, their log-probabilities and why it ended.

        Args:
            texts: one or several.
            samples: of each text, beside each other; the first is what `complete` gives.
            max_new_tokens: most tokens of each.
            stop: strings before which the text ends.
            sampling: as in `SamplingConfig`.

        Raises:
            InputError: as for `complete`.
        """
        return self.reply(
            [self.prompts.text(text) for text in texts_of("texts", texts)],
            samples=samples,
            max_new_tokens=max_new_tokens,
            stop=stop,
            sampling=sampling_with(self.sampling.text, sampling),
        )

    def answer(
        self,
        question: str,
        *,
        video: Pictures | None = None,
        image: Pictures | None = None,
        document: str | Path | None = None,
        answers: Literal["one", "several"] = "one",
        max_new_tokens: SupportsIndex = 64,
        stop: str | Sequence[str] = (),
        **sampling: Unpack[TextSampling],
    ) -> str:
        """Answer a question, alone or about one video, image or document.

        Args:
            question: what is asked.
            video: a file, or frames.
            image: a file, or one picture.
            document: a text, or the `pathlib.Path` of a text file.
            answers: of a document: whether one thing is asked for or several, which the prompt says.
            max_new_tokens: most tokens of the answer.
            stop: strings before which the answer ends.
            sampling: as in `SamplingConfig`.

        Raises:
            InputError: as for `answers`.
        """
        (answered,) = self.answers(
            question,
            video=video,
            image=image,
            document=document,
            answers=answers,
            max_new_tokens=max_new_tokens,
            stop=stop,
            **sampling,
        )
        return answered.text

    def answers(
        self,
        question: str,
        *,
        samples: SupportsIndex = 1,
        video: Pictures | None = None,
        image: Pictures | None = None,
        document: str | Path | None = None,
        answers: Literal["one", "several"] = "one",
        max_new_tokens: SupportsIndex = 64,
        stop: str | Sequence[str] = (),
        **sampling: Unpack[TextSampling],
    ) -> list[Completion]:
        """Answer a question several times; return text, tokens, their log-probabilities and why it ended.

        Args:
            question: what is asked.
            samples: answers that are drawn, beside each other; the first is what `answer` gives.
            video: as for `answer`, as is all else.
            image: as there.
            document: as there.
            answers: as there.
            max_new_tokens: most tokens of each.
            stop: strings before which an answer ends.
            sampling: as in `SamplingConfig`.

        Raises:
            InputError: a file cannot be read, the question is about two things or does not fit into the
                context, or the model has no frame tokenizer.
        """
        prompt = question_prompt(
            self.prompts,
            question,
            video=video,
            image=image,
            document=document,
            answers=answers,
            watching=self.watching,
        )
        written = self.reply(
            [prompt],
            samples=samples,
            max_new_tokens=max_new_tokens,
            stop=stop,
            more_ends=self.prompts.more_ends,
            sampling=sampling_with(self.sampling.answer, sampling),
        )
        return [replace(each, text=each.text.strip()) for each in written]

    def reply(
        self,
        prompts: Sequence[Ids],
        *,
        samples: SupportsIndex = 1,
        max_new_tokens: SupportsIndex,
        stop: str | Sequence[str] = (),
        more_ends: Sequence[int] = (),
        sampling: SamplingConfig,
    ) -> list[Completion]:
        """Continue ids that `prompts` made, all together; arguments as for `completions` and `generate`.

        Raises:
            InputError: one does not fit into the context with what follows it.
        """
        stops = texts_of("stop", stop)
        if "" in stops:
            raise InputError("a stop string is empty", field="stop", value=stop, remedy="leave it out")
        streams: dict[int, TextStream] = {}

        def stopped(index: int, token: int) -> bool:
            stream = streams.setdefault(index, TextStream(self.prompts.tokenizer.decode, stop=stops))
            stream.push(token)
            return stream.stopped

        written = self.generator.generate(
            prompts,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            samples=samples,
            more_ends=more_ends,
            watch=stopped if stops else None,
        )
        for stream in streams.values():
            stream.close()
        return [
            Completion(
                text=streams[i].text if i in streams else self.prompts.words(each.tokens),
                tokens=each.tokens,
                logprobs=each.logprobs,
                finish="stop" if i in streams and streams[i].stopped else each.finish,
            )
            for i, each in enumerate(written)
        ]

    def chat(
        self,
        *,
        system: str | None = None,
        template: str | None = None,
        max_new_tokens: SupportsIndex = 1024,
        **sampling: Unpack[TextSampling],
    ) -> Conversation:
        """Begin a conversation, whose answers are drawn as those of `answer`.

        Args:
            system: what the model is told beforehand.
            template: a chat template in Jinja, in place of the one that came with the model.
            max_new_tokens: most tokens of an answer.
            sampling: as in `SamplingConfig`.

        Raises:
            InputError: the template cannot be used, or a number is out of range.
        """
        own = self.template
        return Conversation(
            self.generator,
            template=own if template is None else replace(own, source=template, path=None),
            sampling=sampling_with(self.sampling.answer, sampling),
            max_new_tokens=whole_number("max_new_tokens", max_new_tokens, least=1),
            system=system,
        )

    @property
    def template(self) -> ChatTemplate:
        """How a conversation is put: as came with the model, or as LWM puts it.

        Raises:
            InputError: what came with it is no template.
        """
        prompts = self.prompts
        return prompts.template or ChatTemplate.of(prompts.tokenizer, vocabulary=prompts.vocabulary)

    def keep(
        self,
        messages: Sequence[Message],
        folder: str | os.PathLike[str],
        *,
        engine: Engine,
        name: str = "",
        check: Check = unchecked,
    ) -> Memory:
        """Read a conversation with an engine of this model, and keep it in a folder, as `Conversation.keep`.

        Raises:
            InputError: as there.
            Busy: as for `Engine.submit`, as is `Closed`.
            Exception: what `check` raises, which is called now and then; nothing is kept.
        """
        path, ids = Path(folder), self.template.beginning(messages)
        model = self.generator.remembering.of_cache(engine.cache_type)
        with closing(keep(engine, ids, check=check)) as spans:
            save_memory(path, name=name or path.name, messages=messages, ids=ids, spans=spans, model=model)
        return Memory.open(path, model=model)

    def recall(self, folder: str | os.PathLike[str], *, engine: Engine, check: Check = unchecked) -> Memory:
        """Put what was kept in a folder into the cache of an engine, where a question finds it.

        Raises:
            InputError: it is no memory of this model and of a cache of the engine's type, or damaged.
            Closed: the engine is closed.
        """
        memory = Memory.open(Path(folder), model=self.generator.remembering.of_cache(engine.cache_type))
        recall(engine, memory.ids, memory.spans, check=check)
        return memory

    def engine(self, config: EngineConfig | None = None) -> Engine:
        """Return what continues many prompts at once, as they come.

        Raises:
            InputError: the cache would hold less than a context, or the mesh cuts a batch.
        """
        return self.generator.engine(decode=self.prompts.tokenizer.decode, config=config or EngineConfig())

    def codes(
        self, *, video: Pictures | None = None, image: Pictures | None = None
    ) -> Int32[np.ndarray, "frames codes"]:
        """Return the codes of the frames of a video, or of an image, as a conversation shows them.

        Raises:
            InputError: it cannot be read, or the model has no frame tokenizer.
        """
        frames = frames_of(self.prompts, video=video, image=image, watching=self.watching)
        return self.prompts.seeing().encode(frames)

    @overload
    def draw(
        self,
        captions: str,
        *,
        frames: SupportsIndex = 1,
        after: Pictures | None = None,
        **sampling: Unpack[DrawingSampling],
    ) -> UInt8[np.ndarray, "frames side side 3"]: ...

    @overload
    def draw(
        self,
        captions: Sequence[str],
        *,
        frames: SupportsIndex = 1,
        after: Pictures | None = None,
        **sampling: Unpack[DrawingSampling],
    ) -> list[UInt8[np.ndarray, "frames side side 3"]]: ...

    def draw(
        self,
        captions: str | Sequence[str],
        *,
        frames: SupportsIndex = 1,
        after: Pictures | None = None,
        **sampling: Unpack[DrawingSampling],
    ) -> UInt8[np.ndarray, "frames side side 3"] | list[UInt8[np.ndarray, "frames side side 3"]]:
        """Draw a video of a caption, or of each of several; an image where `frames` is 1.

        Args:
            captions: one or several.
            frames: how many are drawn.
            after: a picture or a video that they follow, as the model watches it; it is not among them.
            sampling: as in `SamplingConfig`.

        Raises:
            InputError: the model has no frame tokenizer, `frames` is below 1, so many do not fit into the
                context, a file cannot be read, or a number is out of range.
        """
        count, given, drawing = self._drawing(frames, after, sampling)
        each = texts_of("captions", captions)
        drawn = self.generator.generate_frames(
            [self.prompts.drawing(caption, frames=count, after=given) for caption in each],
            frames=count,
            sampling=drawing,
            unconditional=self.prompts.unconditional(after=given),
        )
        pixels = [self.prompts.pixels(ids) for ids in drawn]
        return pixels[0] if isinstance(captions, str) else pixels

    def drawing(
        self,
        caption: str,
        *,
        frames: SupportsIndex = 1,
        after: Pictures | None = None,
        **sampling: Unpack[DrawingSampling],
    ) -> GenerationRequest:
        """Return what asks an engine for the ids of what `draw` draws.

        Raises:
            InputError: as for `draw`; what does not fit is refused by the engine.
        """
        count, given, drawing = self._drawing(frames, after, sampling)
        unguided = drawing.guidance_scale == 1
        return GenerationRequest(
            prompt=self.prompts.drawing(text_of("caption", caption), frames=count, after=given),
            max_new_tokens=count * self.prompts.vocabulary.frame_tokens,
            sampling=drawing,
            frames=count,
            unconditional=None if unguided else self.prompts.unconditional(after=given),
        )

    def score(self, text: str) -> TextScore:
        """Return how likely a text is.

        Raises:
            InputError: it has no tokens.
        """
        ids = self.prompts.scored(text_of("text", text))
        if len(ids) == 1:
            raise InputError("a text without tokens has no score", field="text", value=text)
        return TextScore(token_nats=self.scorer.losses(ids))

    def _drawing(
        self, frames: SupportsIndex, after: Pictures | None, sampling: Mapping[str, Any]
    ) -> tuple[int, Codes | None, SamplingConfig]:
        self.prompts.seeing()
        count = whole_number("frames", frames, least=1, remedy="use 1 for an image")
        if after is None:
            default = self.sampling.image if count == 1 else self.sampling.video
            return count, None, sampling_with(default, sampling)
        is_image = not isinstance(after, np.ndarray) and media_format(Path(after)) == "image"
        given = self.codes(image=after) if is_image else self.codes(video=after)
        return count, given, sampling_with(self.sampling.video, sampling)
