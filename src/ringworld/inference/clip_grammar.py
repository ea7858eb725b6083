"""Which ids may come next in an image or a video within a text, from those of it that are there.

| after | ids that may follow |
|---|---|
| nothing, or a code inside a frame | the vision codes |
| the codes of a frame | end-of-frame and end-of-vision; where no frame may follow, end-of-vision |
| end-of-vision | one after the other, the ids that close a clip |
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_range
from ringworld.text.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipGrammar:
    """Clips within a text, each of which ends where the model ends it.

    Example:
        Two codes a frame, at most two frames, and the ids `code 100-103, eof 104, eov 105, </vision> 7`: the
        tokens of a clip are in `100-103, 100-103, 104-105`, and after 104 in `100-103, 100-103, 105`, then 7.
    """

    vocabulary: Vocabulary
    begin: tuple[int, ...]
    """The ids, of text, after which a clip begins."""
    close: tuple[int, ...]
    """Those that follow it."""
    most_frames: int

    def __post_init__(self) -> None:
        """Refuse clips of no frames, and models that draw none.

        Raises:
            InputError: `most_frames` is below 1, or the model draws no frames.
        """
        check_range(self, "most_frames", least=1, remedy="use 1 for an image")
        if not self.vocabulary.codes:
            problem = "this is a model of text alone, which draws no frames"
            raise InputError(problem, field="vocabulary", value=self.vocabulary)

    def at(self, clip: Sequence[int]) -> range:
        """Return the ids that may follow these of a clip."""
        vocabulary = self.vocabulary
        if clip and (clip[-1] == vocabulary.eov or clip[-1] < vocabulary.code_offset):
            closed = next(i for i, id in enumerate(reversed(clip)) if id == vocabulary.eov)
            return range(self.close[closed], self.close[closed] + 1)
        frame, inside = divmod(len(clip), vocabulary.frame_tokens)
        if inside < vocabulary.codes_per_frame:
            return range(vocabulary.code_offset, vocabulary.code_offset + vocabulary.codes)
        lowest = vocabulary.eov if frame + 1 == self.most_frames else vocabulary.eof
        return range(lowest, vocabulary.eov + 1)

    def is_whole(self, clip: Sequence[int]) -> bool:
        """Return whether nothing of a clip follows, closing ids included."""
        end = len(clip) - len(self.close)
        return end > 0 and clip[end - 1] == self.vocabulary.eov
