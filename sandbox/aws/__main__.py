"""`python -m sandbox.aws`, or under whatever name this folder was copied to."""

from .cli import app

app()
