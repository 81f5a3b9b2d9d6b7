import pytest

from segviz_core.federation.node_log import CONNECTED, CONNECTED_AGAIN, RETRYING, SENT, Then, explain

REFUSED = "Exit Code: 305\nFailed to initialize the connection to the SuperLink.\n[code: 2004] Not registered"


@pytest.mark.parametrize(
    "log, worked_before, returncode, message, then",
    [
        (REFUSED, True, 1, "Reconnecting: the coordinator frees your place within a minute", Then.RETRY_A_WHILE),
        (REFUSED, False, 1, "This site is not registered: ask the coordinator", Then.RETRY_A_WHILE),
        (
            "Exit Code: 305\n[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired",
            True,
            1,
            "The coordinator's certificate has ended",
            Then.GIVE_UP,
        ),
        (
            "Exit Code: 305\n[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate is not yet valid",
            True,
            1,
            "The coordinator's certificate is not valid yet",
            Then.GIVE_UP,
        ),
        ("SuperNode ID: 18820041\nkilled", True, -9, "The connection to the coordinator broke", Then.RETRY),
        ("Exit Code: 305\n[code: 2001]", True, 1, "The site key is missing: import the kit again", Then.GIVE_UP),
        (
            "Exit Code: 305\n[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
            False,
            1,
            "The coordinator's certificate does not belong to this kit",
            Then.GIVE_UP,
        ),
        ("305 [Errno 111] Connection refused", False, 1, "not running, or the address or port", Then.RETRY_A_WHILE),
        ("305 Server disconnected", False, 1, "not a TLS fleet address", Then.RETRY_A_WHILE),
        ("Exit Code: 302", False, 1, "The kit is damaged", Then.GIVE_UP),
        ("Exit Code: 604", False, 1, "The kit is damaged", Then.GIVE_UP),
        ("Exit Code: 606", False, 1, "two Flower versions on this computer", Then.GIVE_UP),
        ("[Errno 98] Address already in use", False, 1, "took the local port", Then.NEW_PORT),
        ("SuperNode terminated gracefully.", True, 0, "Removed by the coordinator", Then.REMOVED),
        ("ERROR: something else", True, 0, "The connection to the coordinator broke", Then.RETRY),
        ("", True, -9, "The connection to the coordinator broke", Then.RETRY),
    ],
)
def test_end_of_a_node_becomes_one_sentence(
    log: str, worked_before: bool, returncode: int, message: str, then: Then
) -> None:
    reason = explain(log, returncode=returncode, worked_before=worked_before)
    assert message in reason.message
    assert reason.then is then


@pytest.mark.parametrize(
    "ahead, message, then",
    [
        (600.0, "The clock of this computer is 10 minutes ahead of the coordinator's.", Then.GIVE_UP),
        (-7200.0, "The clock of this computer is 120 minutes behind the coordinator's.", Then.GIVE_UP),
        (60.0, "Removed by the coordinator.", Then.REMOVED),
        (None, "Removed by the coordinator.", Then.REMOVED),
    ],
)
def test_wrong_clock_is_not_taken_for_a_removal(ahead: float | None, message: str, then: Then) -> None:
    log = "SuperNode terminated gracefully."
    reason = explain(log, returncode=0, worked_before=True, seconds_ahead=lambda: ahead)
    assert (reason.message, reason.then) == (message, then)


def test_lines_that_tell_how_the_connection_stands() -> None:
    assert CONNECTED.search("INFO :      SuperNode ID: 1234")
    assert SENT.search("INFO :      Sent successfully")
    assert SENT.search("ERROR :     Failed to send message 12: cut")
    assert RETRYING.search("WARNING :   Connection attempt failed, retrying in 0.07 seconds")
    assert CONNECTED_AGAIN.search("INFO :      Connection successful after 3.10 seconds and 4 tries.")
