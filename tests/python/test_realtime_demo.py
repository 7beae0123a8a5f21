"""`make realtime`: everything comes up, orders flow, and Ctrl-C leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import psutil
from conftest import ROOT, Pipeline

from tests.soak.realtime import free_ports


def test_make_realtime_runs_until_ctrl_c(new_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = new_pipeline("synthetic")
    pipeline.sandbox("up", "--scale", "0.05", "--seed", "7")
    pipeline.sandbox("down")
    out = pipeline.folder / "out"
    port, dashboard_port = free_ports(2)
    with out.open("w") as file:
        demo = subprocess.Popen(
            [sys.executable, "-m", "realtime.demo"],
            cwd=ROOT,
            env=pipeline.env
            | {
                "REALTIME_PORT": str(port),
                "REALTIME_WORKER_PORT": "0",
                "REALTIME_DASHBOARD_PORT": str(dashboard_port),
                "PYTHONUNBUFFERED": "1",
            },
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 300
        while len(re.findall(r"(approved|rejected|in_review)", out.read_text())) < 5:
            assert demo.poll() is None, out.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.1)
        said = out.read_text()
        where, name, password = re.search(r"dashboard: (\S+)   user (\w+), password (\S+)", said).groups()
        with httpx.Client(follow_redirects=True) as viewer:
            form = {"name": name, "password": password}
            origin = where.removesuffix("/dashboard")
            viewer.post(f"{where}/login", data=form, headers={"Origin": origin}).raise_for_status()
            orders = viewer.get(f"{where}/api/state").raise_for_status().json()["orders"]
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
    assert where == f"http://127.0.0.1:{dashboard_port}/dashboard"
    assert len(orders) >= 5
    assert len(family) >= 3
    assert [process for process in family if process.is_running() and process.status() != "zombie"] == []
    assert pipeline.status().running is False
    assert not os.path.exists(pipeline.folder / "sandbox" / "synthetic" / "pgdata" / "postmaster.pid")  # noqa: PTH110
