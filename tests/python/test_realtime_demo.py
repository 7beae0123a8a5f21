"""`make realtime`: everything comes up, orders flow, and Ctrl-C leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
from conftest import ROOT, Pipeline

from tests.soak.realtime import free_ports


def test_make_realtime_runs_until_ctrl_c(new_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = new_pipeline("synthetic")
    pipeline.sandbox("up", "--scale", "0.05", "--seed", "7")
    pipeline.sandbox("down")
    out = pipeline.folder / "out"
    (port,) = free_ports(1)
    with out.open("w") as file:
        demo = subprocess.Popen(
            [sys.executable, "-m", "realtime.demo"],
            cwd=ROOT,
            env=pipeline.env
            | {"REALTIME_PORT": str(port), "REALTIME_WORKER_PORT": "0", "PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 300
        while len(re.findall(r"(approved|rejected|in_review)", out.read_text())) < 5:
            assert demo.poll() is None, out.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.1)
        family = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(120) == 0, out.read_text()
    finally:
        if demo.poll() is None:
            demo.kill()

    said = out.read_text()
    assert f"orders: http://127.0.0.1:{port}/v1/credit-orders" in said
    assert re.search(r"a partner's key: \S+ .* a reviewer's: \S+", said)
    assert said.rstrip().endswith("stopping")
    assert len(family) >= 2
    assert [process for process in family if process.is_running() and process.status() != "zombie"] == []
    assert pipeline.status().running is False
    assert not os.path.exists(pipeline.folder / "sandbox" / "synthetic" / "pgdata" / "postmaster.pid")  # noqa: PTH110
