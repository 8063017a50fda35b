"""Bags that are read ahead of use, where they do not fit in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

from torch import Tensor

from survq.data.batch import Bags

THREADS = 2


class ReadAhead(Mapping[str, Tensor]):
    """The bags of a mapping, in which reading takes long. Threads read the next ones in the order that is followed.

    At most `most` of them wait in memory. The order decides when a bag is read, not what is read: a bag that is asked
    for out of order is read at once.
    """

    def __init__(self, bags: Bags, most: int):
        self._bags, self._most = bags, most
        self._first: str | None = None
        self._order: Iterator[str] = iter(())  # from the first one on
        self._ahead: deque[tuple[str, Future[Tensor]]] = deque()
        self._threads = ThreadPoolExecutor(THREADS, "read-ahead")

    def follow(self, order: Iterable[str]) -> None:
        """State the order in which bags are used from now on. Reading starts when the first of them is asked for."""
        following = iter(order)
        first = next(following, None)
        if self._ahead and self._ahead[0][0] == first:
            return  # this order is already followed
        self._drop()
        self._first = first
        self._order = following if first is None else chain([first], following)

    def __getitem__(self, case_id: str) -> Tensor:
        if not self._ahead and case_id == self._first:
            self._read_on()
        if self._ahead and self._ahead[0][0] == case_id:
            bag = self._ahead.popleft()[1].result()
            self._read_on()
            return bag
        return self._bags[case_id]

    def __contains__(self, case_id: object) -> bool:
        return case_id in self._bags

    def __iter__(self) -> Iterator[str]:
        return iter(self._bags)

    def __len__(self) -> int:
        return len(self._bags)

    def close(self) -> None:
        self._drop()
        self._threads.shutdown(cancel_futures=True)

    def _read_on(self) -> None:
        while len(self._ahead) < self._most and (case_id := next(self._order, None)) is not None:
            self._ahead.append((case_id, self._threads.submit(self._bags.__getitem__, case_id)))

    def _drop(self) -> None:
        for _, reading in self._ahead:
            reading.cancel()
        self._ahead.clear()
