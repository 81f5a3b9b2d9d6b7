"""What a site may ask Flower's server for: the list behind the built-in front (front.py) and nginx (nginx.py)."""

PATHS = tuple(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
"""What a site may ask for: all of Flower's fleet API but register-node and unregister-node."""

LARGEST_BODY = 16 * 2**20
"""Bytes; Flower cuts weights into pieces of 5 MB."""
