"""Draws the results, in the environment of the peers: `python plot.py results.json plot.svg`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

results = json.loads(Path(sys.argv[1]).read_text())
figure, (ratio, memory) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name in ("ingestion", "connectorx", "dlt"):
    sizes = [s for s in results["sizes"] if name in s["tools"]]
    rows = [s["rows"] / 1e6 for s in sizes]
    ratio.plot(rows, [s["tools"][name]["ratio"] for s in sizes], "o-", label=name)
    memory.plot(rows, [s["tools"][name]["megabytes"] for s in sizes], "o-", label=name)
ratio.axhline(2, color="grey", linestyle=":")
memory.axhline(400, color="grey", linestyle=":")
ratio.set(title="time, in COPY BINARY to /dev/null", xlabel="million rows", xscale="log", yscale="log")
memory.set(title="peak memory of the client, MB", xlabel="million rows", xscale="log", ylim=0)
ratio.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
for axes in (ratio, memory):
    axes.minorticks_off()
    ticks = [s["rows"] / 1e6 for s in results["sizes"]]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.spines[["top", "right"]].set_visible(False)
ratio.legend(frameon=False)
plt.rcParams["svg.hashsalt"] = "benchmarks"
figure.savefig(sys.argv[2], metadata={"Date": None})
