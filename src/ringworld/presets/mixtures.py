"""What the stages of the paper draw (arXiv 2402.08268v4, sections 3 and 4), by kinds that `prepare` makes.

A clip with a caption becomes an example of either order: the frames first, to be described, or the caption
first, to be drawn. Which of them comes is drawn with the rest, by the seed of the run.
"""

from dataclasses import replace

from ringworld.data.config import MixtureConfig

_TASKS = ("image_caption", "video_caption", "caption_image", "caption_video")
_TEXT_SHARE = 0.16

TEXT = MixtureConfig(ratios={"text": 1.0})
"""Documents alone."""
FOUR_TASKS_AND_TEXT = MixtureConfig(
    ratios={"text": _TEXT_SHARE, **dict.fromkeys(_TASKS, (1 - _TEXT_SHARE) / len(_TASKS))}, by="tokens"
)
"""Images and videos, described and drawn, with 16% of text in each batch, as in the first two stages that
see."""
CHAT = MixtureConfig(ratios={"chat": 0.7, "long_qa/chat": 0.3}, by="tokens")
"""Seven tokens of conversations for each three of those about long documents, which `make-qa` wrote
(`long_qa`): LWM packs the former to whole sequences before it mixes. Pack them apart
(`PackingConfig(together="name")`): short ones would else outweigh the few answers of the long."""
FOUR_TASKS = MixtureConfig(
    ratios=dict.fromkeys(
        ("image_qa,image_chat", "video_qa,video_chat", "caption_image", "caption_video"), 0.25
    ),
    by="tokens",
)
"""A quarter of each batch for images and videos each, asked about and drawn, as in the stages of LWM-Chat."""


def documents(*, shortest_tokens: int, longest_tokens: int = 0) -> MixtureConfig:
    """Return a mixture of documents of such lengths: LWM trains 32K on those of 10K to 100K tokens."""
    return replace(TEXT, shortest_tokens=shortest_tokens, longest_tokens=longest_tokens)
