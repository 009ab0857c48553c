"""What each library needs so that its modules put marks into the traced loss.

An adapter is used where its library was imported, so none of them is a dependency of Fathom.
"""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

CALL = "__call__"
_patching = threading.RLock()  # classes are patched for the whole process


def is_imported(module: str) -> bool:
    """Whether a module was imported completely or in part."""
    return module in sys.modules


def module_contexts() -> list[Callable[[], AbstractContextManager]]:
    """What has to be entered so that modules of Linen and of Haiku put marks."""
    contexts: list[Callable[[], AbstractContextManager]] = []
    if is_imported("flax.linen"):
        from research.watching.adapters.linen import marking_linen

        contexts.append(marking_linen)
    if is_imported("haiku"):
        from research.watching.adapters.haiku import marking_haiku

        contexts.append(marking_haiku)
    return contexts


@contextlib.contextmanager
def patched_calls(
    classes: Iterable[type],
    call: Callable[..., Any],
) -> Iterator[None]:
    """While the context lasts, ``call(original, module, args, kwargs)`` replaces ``__call__``.

    Args:
        classes: the classes of modules.
        call: what replaces the method. It is used for modules of exactly these classes.
    """
    with _patching, contextlib.ExitStack() as stack:
        for cls in classes:
            if hasattr(cls, CALL):
                stack.enter_context(_patched_call(cls, call))
        yield


@contextlib.contextmanager
def _patched_call(cls: Any, call: Callable[..., Any]) -> Iterator[None]:
    original = cls.__call__
    is_own = CALL in vars(cls)

    @functools.wraps(original)
    def replacement(self: Any, *args: Any, **kwargs: Any) -> Any:
        if type(self) is not cls:  # a subclass that calls the method of its parent
            return original(self, *args, **kwargs)
        return call(original, self, args, kwargs)

    cls.__call__ = replacement
    try:
        yield
    finally:
        if is_own:
            cls.__call__ = original
        else:
            del cls.__call__
