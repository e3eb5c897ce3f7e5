"""Handlers whose further parameters are dependencies, resolved by fast-depends. Needs the extra `depends`.

    @orders.on("orders")
    @injected
    async def ship(order: Order, pool: Annotated[Pool, Depends(pool_of)]) -> None: ...

`Depends` is fast-depends' own. `provider` holds the overrides of this program, for tests.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ForwardRef, TypeVar

from .errors import UsageError
from .payload import name_of
from .runtime.context import Context

try:
    from fast_depends import Depends, Provider, inject
    from fast_depends.core import build_call_model
except ModuleNotFoundError as e:
    raise UsageError(
        f"eventwagon.depends needs {e.name}, which is not installed: pip install 'eventwagon[depends]'"
    ) from None

__all__ = ["Depends", "injected", "provider"]

P = TypeVar("P")
R = TypeVar("R")

CONTEXT = "ctx"
"""The name under which dependencies get the context, whatever the handler calls it."""


class _Overridable(Provider):
    @contextmanager
    def scope(self, original: Callable[..., Any], override: Callable[..., Any]) -> Iterator[None]:
        """Replace a dependency while entered, however the block ends: the library's own stays after an exception."""
        before = self.overrides.get(original)
        self.override(original, override)
        try:
            yield
        finally:
            if before is None:
                del self.overrides[original]
            else:
                self.overrides[original] = before


provider = _Overridable()
"""Resolves the dependencies: `with provider.scope(pool_of, fake_pool_of): …` replaces one in a test."""


def injected(handler: Callable[Concatenate[P, ...], R]) -> Callable[[P, Context], R]:
    """Decorator, below `@train.on`: makes a handler of a function with further parameters, each of which is annotated
    `Annotated[T, Depends(function)]`.

    Those functions are called for each event, each once, and may have dependencies themselves. They get the payload and
    the context by the names of the handler's parameters; the context also as `ctx`. One that yields goes on after the
    handler has ended. What one raises is an error of the handler. Plain ones run in threads if the handler is async.
    Raises UsageError for a parameter that nothing provides.
    """
    function: Callable[..., Any] = handler
    where = f"handler {name_of(function)!r}"
    if not callable(function) or isinstance(function, type):
        raise UsageError(f"{where} is no function: write @injected between @train.on and the function")
    try:
        model = build_call_model(function, dependency_provider=provider)
        call: Callable[..., Any] = inject(function, cast=False, dependency_provider=provider)
    except (AssertionError, TypeError, ValueError, NameError) as e:
        raise UsageError(f"{where}: its dependencies can't be resolved: {e}") from e
    for option in model.params:
        if isinstance(option.field_type, ForwardRef):
            unknown = option.field_type.__forward_arg__
            raise UsageError(f"{where}: its dependencies can't be resolved: {unknown} names what is not defined here")
    parameters = list(inspect.signature(function).parameters.values())
    own = [parameter for parameter in parameters if parameter.name not in model.dependencies]
    if len(own) == len(parameters):
        raise UsageError(
            f"{where} has no dependency: annotate one `Annotated[T, Depends(function)]`, or drop @injected"
        )
    if any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters):
        raise UsageError(f"{where}: dependencies are given by name: write its parameters out, without * and **")
    if not own or own[0] is not parameters[0] or own[0].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        raise UsageError(f"{where}: its first parameter is the payload, given by position or name")
    if CONTEXT in (own[0].name, *model.dependencies):
        raise UsageError(f"{where}: the name {CONTEXT!r} is the context's: call this parameter something else")
    payload, context = own[0], CONTEXT
    if len(own) > 1 and own[1].default is inspect.Parameter.empty:
        context = own[1].name
    known = {payload.name, context, CONTEXT}
    for option in model.flat_params:
        if option.field_name not in known and option.default_value is ... and option.source is None:
            raise UsageError(
                f"{where}: nothing provides {option.field_name!r}: annotate it `Annotated[T, Depends(function)]`. "
                f"Dependencies may ask for {payload.name!r} and {context!r}"
            )

    def given(event_payload: Any, ctx: Context) -> dict[str, Any]:
        return {CONTEXT: ctx, context: ctx, payload.name: event_payload}

    made: Any
    if inspect.iscoroutinefunction(call):

        @functools.wraps(function)
        async def waits(event_payload: P, ctx: Context) -> Any:
            return await call(**given(event_payload, ctx))

        made = waits
    else:

        @functools.wraps(function)
        def returns(event_payload: P, ctx: Context) -> Any:
            return call(**given(event_payload, ctx))

        made = returns
    ctx_parameter = inspect.Parameter(CONTEXT, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Context)
    signature = inspect.Signature([payload.replace(default=inspect.Parameter.empty), ctx_parameter])
    made.__signature__ = signature  # which Train.on reads
    found: Callable[[P, Context], R] = made
    return found
