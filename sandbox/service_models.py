"""AWS's descriptions of its services, read once a process.

dbt's adapter for Athena opens a boto3 session for every node, and each session reads and parses megabytes
of them anew: 0.2 s of CPU a node, more than most statements take.
"""

import functools

import botocore.session


def share() -> None:
    """Let all boto3 sessions of this process read them through one loader, which keeps what it has read."""
    botocore.session.create_loader = functools.cache(botocore.session.create_loader)
