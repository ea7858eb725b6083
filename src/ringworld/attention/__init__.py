"""Exact attention over sequences that are cut over devices; also the function `ringworld.attention`."""

import inspect
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """This package, which can be called: an area and its public function share a name.

    What describes the function is imported when it is asked for: the package itself imports no jax.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        from ringworld.attention.api import attention

        return attention(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        from ringworld.attention.api import attention

        return inspect.signature(attention)

    @property
    def __doc__(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        from ringworld.attention.api import attention

        return f"{vars(self)['__doc__']}\n\nattention{self.__signature__}\n\n{inspect.getdoc(attention)}"


sys.modules[__name__].__class__ = _Callable
