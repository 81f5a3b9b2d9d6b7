"""What Flower's examples do at a site: torch, network and cases are loaded in the ClientApp, anew for every message.

The same protocol and the same training as SegViz's own, so that only this differs. `python stock_client_app.py FOLDER`
stands in for the warm trainer, which has nothing to do then.
"""

import sys
import threading
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from segviz_core.federation import journal, records
from segviz_core.federation.child import end_with_parent

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """Answer one request."""
    from segviz_core.federation.site_folder import read_site
    from segviz_core.federation.trainer import _open_session

    folder = Path(str(context.node_config["site"]))
    sys.stdout = sys.stderr  # progress rows are not Flower's business
    session = _open_session(folder, read_site(folder))
    reply = session.handle(records.from_record(message.content))
    return Message(records.to_record(reply), reply_to=message)


if __name__ == "__main__":
    ended = threading.Event()
    end_with_parent(ended.set)
    journal.say("ready", training_cases=0, validation_cases=0)
    ended.wait()
