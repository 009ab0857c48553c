"""The W&B server: where it is, and whether it answers."""

import functools
import http.client
import os
from urllib.parse import urlparse

PROBE_SECONDS = 5


def server_address() -> str:
    """The W&B server of the environment, or else of the user's settings."""
    import wandb

    return os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)


@functools.cache
def server_answers(address: str) -> bool:
    """Whether a W&B server takes a connection there and answers a request within ``PROBE_SECONDS``."""
    url = urlparse(address)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
