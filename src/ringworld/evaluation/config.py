"""What is evaluated: the tasks that a configuration file can name."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.ranges import check_range
from ringworld.evaluation.held_out import HeldOutConfig
from ringworld.evaluation.needles import NeedleConfig

TaskName = Literal["needles", "held_out"]
_SHORTEST_TOKENS = 1024
_CONFIGS: dict[TaskName, type] = {"needles": NeedleConfig, "held_out": HeldOutConfig}


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Everything that is measured before and after a stage, and what of it within one.

    A further task is a file with a frozen dataclass that satisfies `evaluation.task.TaskConfig`, and its name
    in the union below.
    """

    tasks: tuple[NeedleConfig | HeldOutConfig, ...]
    every_steps: int = 0
    """Updates between two measurements within a stage, which are in the rows of metrics; 0 is none."""
    within: tuple[TaskName, ...] = ("held_out",)
    """Tasks that are measured then."""

    def __post_init__(self) -> None:
        """Refuse less than no updates, and tasks that there are not."""
        check_range(self, "every_steps", of="evaluation", least=0)
        for name in self.within:
            if name not in get_args(TaskName):
                raise not_a_choice("task", str(name), choices=get_args(TaskName))

    def of_a_stage(self) -> tuple[NeedleConfig | HeldOutConfig, ...]:
        """Return the tasks that are measured within a stage.

        Raises:
            InputError: there is none of a name.
        """
        return self.only(self.within).tasks if self.every_steps and self.within else ()

    @property
    def longest_context_tokens(self) -> int:
        """Longest prompt with its answer that a task asks for; 0 where none asks."""
        return max((task.longest_context_tokens for task in self.tasks), default=0)

    def only(self, names: TaskName | Sequence[TaskName]) -> "EvaluationConfig":
        """Return these tasks alone, or this one; without names, all.

        Raises:
            InputError: there is none of a name.
        """
        names = (names,) if isinstance(names, str) else names
        for name in names:
            if name not in get_args(TaskName):
                raise not_a_choice("task", str(name), choices=get_args(TaskName))
        kinds = tuple(_CONFIGS[name] for name in names or get_args(TaskName))
        tasks = tuple(task for task in self.tasks if isinstance(task, kinds))
        if not tasks:
            problem = f"the configuration measures nothing of {', '.join(names)}"
            raise InputError(problem, field="tasks", value=tuple(names), remedy="name another preset")
        return replace(self, tasks=tasks)


def tasks_for(context_tokens: int) -> EvaluationConfig:
    """Return what can be asked of any model: a needle at 1K, 2K, ... tokens up to its context, and loss."""
    lengths = [min(_SHORTEST_TOKENS, context_tokens)]
    while 2 * lengths[-1] <= context_tokens:
        lengths.append(2 * lengths[-1])
    needle = NeedleConfig(context_tokens=tuple(lengths), rounds=2, max_new_tokens=32)
    return EvaluationConfig(tasks=(needle, HeldOutConfig()))
