"""What the campaign's processes have in common, imported once: they are forked with it."""

import os

import boto3

import ingestion.postgres  # noqa: F401
import tests.soak.victim  # noqa: F401

if "AWS_ENDPOINT_URL" in os.environ:
    # Reads boto3's description of S3, the slowest part of a client's making; nothing is sent.
    boto3.client("s3")
