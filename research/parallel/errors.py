"""Errors that one process of a run raises because of another one. No jax."""


class PeerFailed(Exception):
    """Another process of the same run failed; the message is for the primary process to print."""


class ProcessLost(PeerFailed):
    """Another process of the same run ended without saying why."""


class JoinInterrupted(KeyboardInterrupt):
    """The user interrupted the command while it waited for the other processes of its run.

    The waiting itself cannot be stopped, only the process.
    """
