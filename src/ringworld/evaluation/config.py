"""What is evaluated: the tasks that a configuration file can name."""

from dataclasses import dataclass

from ringworld.evaluation.held_out import HeldOutConfig
from ringworld.evaluation.needles import NeedleConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Everything that is measured before and after a stage.

    A further task is a file with a frozen dataclass that satisfies `evaluation.task.TaskConfig`, and its name
    in the union below.
    """

    tasks: tuple[NeedleConfig | HeldOutConfig, ...]

    @property
    def longest_context_tokens(self) -> int:
        """Longest prompt with its answer that a task asks for; 0 where none asks."""
        return max((task.longest_context_tokens for task in self.tasks), default=0)
