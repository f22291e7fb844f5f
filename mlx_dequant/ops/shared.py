"""One product for matrices that multiply the same x: queries, keys and values; gate and up."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import mlx.core as mx

from .. import backends
from ..backends.host import precision
from ..log import logger
from .linear import linear_parts
from .operand import Weight
from .replay import check_untraced, current


class _Here(threading.local):
    """What this thread keeps: the trace that it makes, x, what else decides about the product, and the outputs that
    nobody took."""

    kept: tuple[object, mx.array, str | None, str | None, dict[int, mx.array]] | None = None


class SharedProduct:
    """A product whose outputs belong to several members.

    The first member that is called with an x multiplies it for all. The others take their outputs when they are
    called with the same object, in any order, in the same thread, on the same backend and with the same precision.
    The x and the outputs are kept until each was taken, and no longer. A member that is called in between with another
    x, or twice, ends the sharing for good: each member then multiplies by itself. That is never wrong, and costs time
    at most.

    It knows an x by its identity. So nobody may change it in place (`x += 1`, `x[0] = 1`) between the calls of two
    members.

    Args:
        joint: the weight whose outputs are those of all members, in turn; None once the sharing has ended.
        sizes: how many outputs each member has.
        largest: numbers in x, with more of which members multiply by themselves.
        title: of the members, for the log.
    """

    def __init__(self, joint: Weight, sizes: Sequence[int], largest: int, title: str):
        self.joint: Any = joint
        self._ends = tuple(accumulate(sizes))[:-1]
        self._largest = largest
        self._title = title
        self._here = _Here()

    def outputs(self, member: int, x: mx.array) -> mx.array | None:
        """A member's outputs; None if it has to multiply by itself."""
        kept, trace = self._here.kept, current()
        if kept is None or kept[0] is not trace:
            joint = self.joint
            if joint is None or x.size > self._largest:
                return None
            parts = dict(enumerate(linear_parts(x, joint, self._ends)))
            self._here.kept = trace, x, backends.chosen(), precision.chosen(), parts
            return parts.pop(member)
        _, known, backend, rounding, parts = kept
        is_known = known is x and backends.chosen() == backend and precision.chosen() == rounding
        y = parts.pop(member, None) if is_known else None
        if y is None and x.size <= self._largest:
            check_untraced("layers that share a product are called with different x")
            self._end()
        elif not parts:
            self._here.kept = None
        return y

    def _end(self) -> None:
        self.joint, self._here = None, _Here()
        logger.info(
            "%s: a product each from now on: one was called twice or with another x before all had their outputs",
            self._title,
        )


class Share(NamedTuple):
    """A member's share of a product."""

    product: SharedProduct
    member: int
