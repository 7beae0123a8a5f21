"""The page of measured numbers: `docs/benchmarks.md`."""

import os
import platform
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def machine() -> str:
    """The machine, and how busy it is with other things."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    python = platform.python_version()
    return f"{os.cpu_count()} cores, {memory:.0f} GB, Python {python}, load {os.getloadavg()[0]:.0f}"


def span(values: list[float], form: str) -> str:
    """The median of some values with the lowest and the highest."""
    ordered = sorted(values)
    low, middle, high = (format(ordered[i], form) for i in (0, len(ordered) // 2, -1))
    return middle if low == high else f"{middle} ({low}–{high})"


def write(mark: str, lines: list[str]) -> None:
    """Print some lines, and put them between the two marks of their name on the page."""
    text = "\n".join(lines)
    print(text)
    page = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    page = page[: page.index(begin) + len(begin)] + f"\n{text}\n" + page[page.index(end) :]
    PAGE.write_text(page, encoding="utf-8")
