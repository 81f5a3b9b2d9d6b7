"""The honest ClientApp with two points to break it at: before-send and sending."""

from pathlib import Path
from typing import Any

import flwr.supernode.runtime.run_clientapp as runtime
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from pauses import pause

from segviz_core.federation.client_app import answer

app = ClientApp()
_site: list[Path] = []
_push_objects = runtime.push_objects


@app.train()
def train(message: Message, context: Context) -> Message:
    _site[:] = [Path(str(context.node_config["site"]))]
    reply = Message(answer(message.content, _site[0]), reply_to=message)
    pause(_site[0], "before-send")
    return reply


def _push(*arguments: Any, **values: Any) -> Any:
    """The message is announced to the node, its arrays are not there yet."""
    pause(_site[0], "sending")
    return _push_objects(*arguments, **values)


runtime.push_objects = _push
