"""What goes wrong in the sandbox, said in one line."""


class SandboxError(Exception):
    """A problem the user can act on; the message says what happened and what to do."""
