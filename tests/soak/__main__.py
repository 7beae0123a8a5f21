"""`python -m tests.soak`: the whole campaign; `make soak`."""

import argparse
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.soak.campaign import AFTER, BEFORE, BETWEEN, MULTIPART, PHASES, WRITING, Result, campaign


def main() -> int:
    """Run the campaign on every place at once; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of all places together (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: a random one")
    parser.add_argument("--place", choices=[*PHASES, "both"], default="both")
    parser.add_argument("--minutes", type=float, default=60, help="at most (%(default)s)")
    parser.add_argument("--sabotage", choices=["plain-write"], help="break the guarantee: it must be noticed")
    arguments = parser.parse_args()
    places = list(PHASES) if arguments.place == "both" else [arguments.place]
    print(f"seed {arguments.seed}, {arguments.kills} kills", flush=True)
    began = time.monotonic()
    kills = arguments.kills // len(places)
    with ProcessPoolExecutor(len(places), mp_context=get_context("spawn")) as processes:
        waiting = [
            processes.submit(campaign, place, arguments.seed, kills, arguments.sabotage, arguments.minutes)
            for place in places
        ]
        results = [w.result() for w in waiting]
    _show(results, time.monotonic() - began)
    short = sum(r.verified < kills for r in results)
    if short:
        print("not all kills were made: see --minutes", flush=True)
    return int(any(r.violation or r.missed for r in results) or short > 0)


def _show(results: list[Result], seconds: float) -> None:
    print(f"\n{'phase':<28}" + "".join(f"{r.place:>10}" for r in results))
    for phase in (BEFORE, WRITING, MULTIPART, BETWEEN, AFTER):
        counts = (
            "–" if phase == MULTIPART and r.place == "folder" else str(r.phases[phase]) for r in results
        )
        print(f"{phase:<28}" + "".join(f"{count:>10}" for count in counts))
    print()
    for r in results:
        print(
            f"{r.place}: killed {dict(r.targets)} in {dict(r.kinds)} runs; verified {r.verified} times;"
            f" the reader polled {r.polls:,} times and read {r.files:,} files"
        )
        if r.aborted:
            print(f"{r.place}: {r.aborted} runs were aborted by their driver when PostgreSQL was killed")
        if r.missed:
            print(f"{r.place}: no kill hit: {', '.join(r.missed)}")
        if r.violation:
            print(f"{r.place}: VIOLATION after {sum(r.phases.values())} kills: {r.violation}")
    failed = any(r.violation or r.missed for r in results)
    print(f"{'FAILED' if failed else 'passed'} in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
