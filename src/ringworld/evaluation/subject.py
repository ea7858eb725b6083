"""A loaded model as tasks ask it."""

from ringworld.evaluation.task import Subject
from ringworld.inference.world import World


def subject_of(world: World) -> Subject:
    """Return what tasks ask, without the pictures and files that `World` takes."""
    return Subject(
        tokenizer=world.prompts.tokenizer,
        vocabulary=world.prompts.vocabulary,
        continue_ids=world.generator.generate,
        score=world.scorer.score,
    )
