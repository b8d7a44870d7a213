"""What the gateway serves beside the model APIs: a page is a method, a path and what answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple

from junctor.errors import NoSuchPath, WrongMethod
from junctor.gateway.http import Exchange
from junctor.tenancy.contracts import Principal

Answerer = Callable[[Exchange, Principal], Awaitable[None]]


class Page(NamedTuple):
    """`open`: needs no key at all (health, the dashboard's own files); `admin`: needs the admin key."""

    answer: Answerer
    open: bool = False
    admin: bool = False


class Pages:
    """Pages by path and method; a path that ends in `/*` stands for everything below it."""

    def __init__(self, pages: Mapping[tuple[str, str], Page]) -> None:
        self._exact: dict[str, dict[str, Page]] = {}
        self._below: dict[str, dict[str, Page]] = {}
        for (method, path), page in pages.items():
            self.add(method, path, page)

    def add(self, method: str, path: str, page: Page) -> None:
        """One more page."""
        if path.endswith("/*"):
            self._below.setdefault(path[:-1], {})[method] = page
        else:
            self._exact.setdefault(path, {})[method] = page

    def listed(self) -> Iterator[tuple[str, str, Page]]:
        """Every page: method, path, page."""
        for path, methods in self._exact.items():
            yield from ((method, path, page) for method, page in methods.items())
        for start, methods in self._below.items():
            yield from ((method, f"{start}*", page) for method, page in methods.items())

    def find(self, method: str, path: str) -> Page:
        """The page; raises NoSuchPath or WrongMethod."""
        methods = self._exact.get(path)
        if methods is None:
            methods = next((found for start, found in self._below.items() if path.startswith(start)), None)
        if methods is None:
            known = ", ".join([*self._exact, *(f"{start}…" for start in self._below)])
            raise NoSuchPath("there is nothing here", field="path", fix=f"there are: {known}")
        page = methods.get(method)
        if page is None:
            takes = ", ".join(methods)
            raise WrongMethod(f"{path[:80]} takes {takes} only", field="method", fix=f"send a {next(iter(methods))}")
        return page
