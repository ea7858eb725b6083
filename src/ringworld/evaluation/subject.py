"""A loaded model as tasks ask it."""

from collections.abc import Sequence

from ringworld.evaluation.task import Subject
from ringworld.inference.config import SamplingConfig
from ringworld.inference.prompts import Ids
from ringworld.inference.world import World


def subject_of(world: World) -> Subject:
    """Return what tasks ask, without the pictures and files that `World` takes."""

    def continue_ids(
        prompts: Sequence[Ids], *, max_new_tokens: int, sampling: SamplingConfig
    ) -> Sequence[Ids]:
        written = world.generator.generate(
            prompts,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            more_ends=world.prompts.more_ends,
        )
        return [continuation.tokens for continuation in written]

    return Subject(
        tokenizer=world.prompts.tokenizer,
        vocabulary=world.prompts.vocabulary,
        ask=world.prompts.question,
        continue_ids=continue_ids,
        score=world.scorer.score,
    )
