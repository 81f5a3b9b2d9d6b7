"""How far the clock of a site is from the coordinator's: Flower refuses signatures of a wrong time without a reason."""

import http.client
import ssl
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

from segviz_core.federation.way_out import connection_to

TOLERATED_S = 150.0
"""Each way. Flower accepts what was signed up to 305 s ago and 5 s ahead (its constants TIMESTAMP_TOLERANCE and
SYSTEM_TIME_TOLERANCE); a site dates its signatures back by 150 s, so that both directions get half of that."""

_PATIENCE_S = 5.0


def seconds_ahead(address: str, authority: Path) -> float | None:
    """Seconds, to about one, by which this computer's clock is ahead of the one at `address` (host:port).

    The other's time is the date of an HTTPS answer, whatever the answer is; None where there is no answer.
    """
    try:
        host, _, port = address.rpartition(":")
        context = ssl.create_default_context(cafile=str(authority))
        connection = connection_to(host.strip("[]"), int(port), context=context, timeout=_PATIENCE_S)
        connection.request("GET", "/")
        date = connection.getresponse().headers["Date"]
        connection.close()
        return time.time() - parsedate_to_datetime(date).timestamp()
    except (OSError, http.client.HTTPException, TypeError, ValueError):
        return None
