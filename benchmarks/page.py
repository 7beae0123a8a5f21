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


def table(said: str, heads: list[str], records: str, rows: dict[tuple[str, ...], list[dict]]) -> list[str]:
    """What runs used, in lines: a sentence that ends with how often, and a row for the runs of each kind.

    A run is `records`, `seconds`, `cpu` (seconds) and `peak_mb`; `heads` name what a kind is known by.
    """
    rounds = len(next(iter(rows.values())))
    heads = [*heads, "seconds", f"{records}/s", "CPU seconds", "peak memory, MB"]
    lines = [
        f"{said}; median of {rounds} rounds, in brackets the lowest and the highest.",
        "",
        f"| {' | '.join(heads)} |",
        "|" + "---|" * (len(heads) - 4) + "---:|" * 4,
    ]
    for kind, runs in rows.items():
        rates = span([r["records"] / r["seconds"] for r in runs], ",.0f")
        seconds, cpu = (span([r[k] for r in runs], ".1f") for k in ("seconds", "cpu"))
        peak = f"{max(r['peak_mb'] for r in runs):.0f}"
        lines.append(f"| {' | '.join([*kind, seconds, rates, cpu, peak])} |")
    return lines


def write(mark: str, lines: list[str], page: Path = PAGE) -> None:
    """Print some lines, and put them between the two marks of their name on the page."""
    text = "\n".join(lines)
    print(text)
    whole = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    whole = whole[: whole.index(begin) + len(begin)] + f"\n{text}\n" + whole[whole.index(end) :]
    page.write_text(whole, encoding="utf-8")
