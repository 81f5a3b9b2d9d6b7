"""A site of a study, as its people see it: join with a kit, look at the status, leave."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segviz_core.atomic import write_json
from segviz_core.errors import InputError, SegVizError
from segviz_core.federation import journal
from segviz_core.federation.bulletin import OnRow
from segviz_core.federation.certificates import create_node_key, days_left, public_key, write_secret
from segviz_core.federation.child import environment, own_group
from segviz_core.federation.consent import check_owner, record
from segviz_core.federation.kit import Kit, check_flower, read_kit
from segviz_core.federation.running import ask_to_leave_after_round, ask_to_stop, is_running
from segviz_core.federation.site_folder import CA_FILE, CONSENT_FILE, KEY_FILE, SITE_FILE, STATUS_FILE
from segviz_core.federation.supervisor import Supervisor
from segviz_core.labels import ORGANS, LabelSet

DEFAULT_FOLDER = Path.home() / ".segviz" / "site"

TRAINER = (sys.executable, "-P", "-m", "segviz_core.federation.trainer")
CLIENT_APP = "segviz_core.federation.client_app:app"

_JOIN_WAIT_S, _LEAVE_WAIT_S = 3600.0, 40.0


@dataclass(frozen=True)
class SiteOptions:
    """What the people of a site choose: their cases, the organs annotated there, and their computer.

    `label_values` maps an organ to the voxel values that stand for it; organs left out take the values of the folder's
    layout. `device` (auto, cpu or cuda) trains, a processor with `cores`. `flwr_folder` is the private folder with
    flwr, None where it is installed.
    `code` "pin" runs the coordinator's code once it is approved here (code_review.py), "local" only what is installed.
    `trainer` and `client_app` name the programs that train and talk; tests put others there.
    """

    cases: Path
    organs: tuple[str, ...]
    label_values: Mapping[str, tuple[int, ...]]
    cores: int
    device: str = "auto"
    flwr_folder: Path | None = None
    code: str = "local"
    trainer: Sequence[str] = TRAINER
    client_app: str = CLIENT_APP


def join(
    kit_file: Path,
    options: SiteOptions,
    *,
    folder: Path = DEFAULT_FOLDER,
    consent: bool = False,
    foreground: bool = False,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Prepare `folder`, start the supervisor and wait until the site is online; gives the last status.

    With `foreground` the supervisor works in this process until the site leaves; else it is detached. `on_row` gets
    every status row (state, progress) meanwhile.

    Raises:
        InputError: no consent, the kit or the cases cannot be used, or the coordinator is not there.
    """
    kit = read_kit(kit_file)
    if not consent:
        raise InputError(
            "Joining needs consent to what leaves this site.",
            hint="Read the list and repeat the command with --consent.",
        )
    _check_options(kit, options)
    _prepare(folder, kit, options)
    if foreground:
        Supervisor(folder, on_row=on_row).run()
        return status(folder)
    start = len(journal.read(folder / STATUS_FILE))
    return _follow(_detach(folder), folder, start=start, on_row=on_row or (lambda _: None))


def make_key(folder: Path = DEFAULT_FOLDER) -> Path:
    """Make the key of this site in `folder`, for a kit without one; gives the file of its public half, to be sent.

    A second call gives the same file.

    Raises:
        InputError: the folder belongs to a site that has joined already.
    """
    if (folder / CONSENT_FILE).exists():
        raise InputError(f"A site has joined in {folder} already.", hint="Name another folder: --work")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    private, public = folder / KEY_FILE, folder / f"{KEY_FILE}.pub"
    if not private.exists():
        write_secret(private, create_node_key()[0])
    public.write_bytes(public_key(private.read_bytes()) + b"\n")
    return public


def leave(folder: Path = DEFAULT_FOLDER, *, after_round: bool = False) -> None:
    """Ask the site to leave and wait for the end of all its processes.

    With `after_round` it leaves by itself once the answer of the round under way is sent; nobody waits for that.

    Raises:
        InputError: no site is running in `folder`.
        SegVizError: it did not end in time.
    """
    if not (folder / SITE_FILE).exists() or not is_running(folder):
        raise InputError(f"No site is running in {folder}.", hint="Name its folder with --work.")
    if after_round:
        ask_to_leave_after_round(folder)
        return
    if not ask_to_stop(folder, wait_s=_LEAVE_WAIT_S):
        raise SegVizError(f"The site did not end within {_LEAVE_WAIT_S:.0f} s.", hint="Try again in a minute.")


def status(folder: Path = DEFAULT_FOLDER) -> dict[str, Any]:
    """State of the site in `folder`: whether it runs, the last state, the last progress, days that the kit is valid."""
    if not (folder / SITE_FILE).exists():
        raise InputError(f"No site has joined in {folder}.", hint="Name its folder with --work.")
    rows = journal.read(folder / STATUS_FILE)
    states = [row for row in rows if row["event"] == "state"]
    progress = [row for row in rows if row["event"] in ("progress", "round", "answered")]
    devices = [row["device"] for row in rows if "device" in row]
    running = is_running(folder)
    last = dict(states[-1]) if states else {"state": "left", "message": "Never started."}
    if not running and last["state"] not in ("left", "finished", "failed", "removed"):
        last |= {"state": "left", "message": "It ended without leaving; join again to go on."}
    certificate = folder / CA_FILE
    days = round(days_left(certificate.read_bytes()), 1) if certificate.exists() else None
    return {
        "running": running,
        **last,
        "progress": progress[-1] if progress else None,
        "device": devices[-1] if devices else None,
        "certificate_days_left": days,
    }


def _check_options(kit: Kit, options: SiteOptions) -> None:
    if not options.organs:
        raise InputError(
            "Expected at least one organ for the label set, found none.", hint="Example: --label-set liver"
        )
    for organ in options.organs:
        if kit.allow and organ not in kit.allow:
            raise InputError(
                f"This kit allows the label set {', '.join(kit.allow)}, found {organ}.", hint="Ask the coordinator."
            )
        if organ not in ORGANS and organ not in options.label_values:
            raise InputError(
                f"The organ {organ!r} is not one of {', '.join(ORGANS)}.",
                hint=f"A new organ needs its label values: --label-values {organ}=1",
            )
    if foreign := [organ for organ in options.label_values if organ not in options.organs]:
        raise InputError(f"Label values are given for {foreign[0]}, which is not in the label set.")
    if options.label_values:
        try:
            LabelSet(options.label_values)
        except ValueError as error:
            raise InputError(f"Label values: {error}.", hint="Example: --label-values liver=6 kidneys=2,3") from error
    if not options.cases.exists():
        raise InputError(f"There is no folder of cases at {options.cases}.", hint="Name it with --cases.")
    check_flower(options.flwr_folder)


def _prepare(folder: Path, kit: Kit, options: SiteOptions) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if is_running(folder):
        raise InputError(
            f"A site is running already in {folder}.", hint="Leave it first, or name another folder: --work"
        )
    check_owner(folder, kit)
    write_secret(folder / CA_FILE, kit.certificate)
    write_secret(folder / KEY_FILE, _key(folder, kit))
    write_json(
        folder / SITE_FILE,
        {
            "address": kit.address,
            "site": kit.site.to_dict(),
            "cases": str(options.cases.resolve()),
            "organs": list(options.organs),
            "label_values": {organ: list(values) for organ, values in options.label_values.items()},
            "cores": options.cores,
            "device": options.device,
            "flwr_folder": str(options.flwr_folder.resolve()) if options.flwr_folder else "",
            "code": options.code,
            "client_app": options.client_app,
            "trainer": list(options.trainer),
        },
    )
    record(folder, kit, code=options.code)


def _key(folder: Path, kit: Kit) -> bytes:
    """The private key in the kit, or the one that this site made itself."""
    if kit.key:
        return kit.key
    path = folder / KEY_FILE
    if not path.exists() or public_key(path.read_bytes()) != kit.public_key:
        raise InputError(
            f"This kit belongs to a key that a site made itself; it is not in {folder}.",
            hint="Join where `site key` was called, with the same --work.",
        )
    return path.read_bytes()


def _detach(folder: Path) -> "subprocess.Popen[bytes]":
    """Start the supervisor so that it outlives this process and its terminal."""
    with (folder / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "segviz_core.federation.supervisor", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(flwr_home=folder / "flower"),
            **_detached(),
        )


def _detached() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    return own_group()


def _follow(supervisor: "subprocess.Popen[bytes]", folder: Path, *, start: int, on_row: OnRow) -> dict[str, Any]:
    """Pass on status rows until the site is online or has ended.

    An interrupt (Ctrl-C, a cancelled window) while the site is still coming up takes it back.
    """
    deadline = time.monotonic() + _JOIN_WAIT_S
    try:
        while time.monotonic() < deadline:
            ended = supervisor.poll() is not None
            rows = journal.read(folder / STATUS_FILE)
            for row in rows[start:]:
                on_row(row)
                if row.get("state") in ("online", "left", "finished"):
                    return row
                if row.get("state") in ("failed", "removed"):
                    kind = InputError if row.get("kind") == "input" else SegVizError
                    raise kind(row["message"], hint=row.get("hint", ""))
            start = len(rows)
            if ended:
                raise SegVizError("The site ended while it was starting.", hint=f"{folder} holds its logs.")
            time.sleep(0.2)
        raise SegVizError(f"The site was not online after {_JOIN_WAIT_S / 60:.0f} minutes.", hint="Try again.")
    except BaseException:
        supervisor.terminate()
        supervisor.wait(_LEAVE_WAIT_S)
        raise
