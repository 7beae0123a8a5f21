"""What a third party's code hands to the HTTP server: an answer, or a refusal."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """A response. `note` goes to the access log, so it holds counts and names, never a value."""

    status: int
    body: bytes
    note: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """The request is wrong. The message names the field at fault and never repeats its value."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
