"""The W&B server: its address, and whether it answers."""

import functools
import http.client
import os
from urllib.parse import urlparse

PROBE_SECONDS = 5


def server_address() -> str:
    """``WANDB_BASE_URL``, or else the address in the user's W&B settings."""
    address = os.environ.get("WANDB_BASE_URL")
    if address:
        return address
    import wandb

    return str(wandb.setup().settings.base_url)


@functools.cache
def server_answers(address: str) -> bool:
    """Whether a server at this address answers an HTTP request within ``PROBE_SECONDS``."""
    url = urlparse(address)
    connect = http.client.HTTPConnection
    if url.scheme == "https":
        connect = http.client.HTTPSConnection
    connection = connect(url.hostname or "", url.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
