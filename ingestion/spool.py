"""Answers that were paid for and are not in the lake yet.

Every answered page is one object, written before the next page is asked for:

    LAKE/spool/<source>/<table>/<request>-<page>.json

A run that dies leaves them there. The next run lands them first and asks only for what is missing; once
its batch is committed they are removed. So all that a crash can cost is the answers that were on the wire.
The objects hold personal data, as raw does.
"""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ingestion.config import TableConfig
from ingestion.lake import Lake
from ingestion.records import from_json, to_json

_NAME = re.compile(r".*/([0-9a-f]{32})-[0-9]{6}\.json")
_FIRST = "-000000.json"
_ENCODER = msgspec.json.Encoder(decimal_format="number")


@dataclass
class Chain:
    """A request and how far its answer has been followed: pages so far, token of the page that comes next."""

    request: Any
    pages: int = 0
    token: Any = None
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def complete(self) -> bool:
        """Whether no page follows."""
        return self.pages > 0 and self.token is None


class Spool:
    """The spool of one table."""

    def __init__(self, lake: Lake, table: TableConfig) -> None:
        self._storage = lake.storage
        self._folder = f"spool/{table.source}/{table.table}"

    def chains(self) -> Iterator[tuple[Chain, list[Any]]]:
        """Every chain that was begun, with the answers of its pages in their order."""
        found: dict[str, list[str]] = {}
        for name in self._storage.names(self._folder):
            if match := _NAME.fullmatch(name):
                found.setdefault(match[1], []).append(name)
        for chain_name, names in found.items():
            if not names[0].endswith(_FIRST):
                continue  # `clear` was interrupted
            pages = [from_json(self._storage.read(n).decode()) for n in names]
            chain = Chain(pages[0]["request"], len(pages), pages[-1]["token"], chain_name)
            yield chain, [page["answer"] for page in pages]

    def add(self, chain: Chain, answer: Any, token: Any) -> None:
        """Keep the next page of a chain: its answer and the token of the page after it."""
        name = f"{chain.name}-{chain.pages:06d}.json"
        page = {"token": token, "answer": answer}
        if chain.pages == 0:
            page["request"] = chain.request
        try:
            content = _ENCODER.encode(page)
        except UnicodeEncodeError:  # half a surrogate pair
            content = to_json(page).encode()
        self._storage.put(f"{self._folder}/{name}", content, replace=True)
        chain.pages += 1
        chain.token = token

    def clear(self) -> None:
        """Remove everything: it is in the lake now."""
        # First pages come first: a chain that has lost its first is not read again, nor gone on with.
        names = self._storage.names(self._folder)
        for name in sorted(names, key=lambda name: not name.endswith(_FIRST)):
            self._storage.remove(name)
