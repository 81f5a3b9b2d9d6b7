"""Who may come in: keys, certificates, clocks, versions, contracts, foreign code, and every path without a key."""

import http.client
import json
import shutil
import ssl
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bed import HERE, Bed, pids, refusal, running_bed, with_environment
from fault import BROKEN, REFUSED, REJECTED, REPEATED, UNDISTURBED, Area, Fault, Seen
from federation_processes import TRAINER, join
from toy_study import free_port

from segviz_core.contract import DataContract
from segviz_core.federation import certificates, coordinator, journal, site
from segviz_core.federation.fleet_paths import PATHS
from segviz_core.federation.kit import Kit, check_flower, read_kit, write_kit
from segviz_core.federation.site import SiteOptions
from segviz_core.federation.site_folder import AUDIT_FILE

MARKER = "foreign code ran"


@contextmanager
def keys_bed(folder: Path) -> Iterator[Bed]:
    """A bed whose Flower app is hostile towards sites: it writes a file wherever it runs in a ClientApp."""

    def spoil(bed: Bed) -> None:
        for name in ("client_app", "__init__"):
            file = bed.study / "app" / "segviz_study" / f"{name}.py"
            text = file.read_text(encoding="utf-8") if file.exists() else ""
            marker = str(bed.folder / MARKER)
            file.write_text(f"import sys\nif 'client-app' in sys.orig_argv: open({marker!r}, 'w')\n{text}")

    with running_bed(folder, prepare=spoil) as bed:
        yield bed


def _stranger(bed: Bed, name: str, kit: Path, **environment: str) -> tuple[str, Seen]:
    """Let another site try to join with `kit`; the sentence it is refused with, and what the study noticed."""
    mark, folder = bed.mark(), bed.folder / name
    with with_environment(**environment):
        words = refusal(lambda: join(kit, folder, "kidneys"))
    if site.is_running(folder):
        site.leave(folder)
    bed.grows(1)
    return words, bed.judge(mark)


def _refused(result: tuple[str, Seen], expected: str) -> Seen:
    """Refused with the right sentence while the study went on undisturbed."""
    words, study = result
    right = expected in words and study.outcome == UNDISTURBED
    return Seen(REFUSED if right else BROKEN, f"{words or 'not refused'}; study: {study.outcome}", study.rounds_lost)


def _kit(bed: Bed, name: str, change: Callable[[Kit], Kit]) -> Path:
    """The kit of a new site, changed."""
    path = bed.kit(name)
    write_kit(path, change(read_kit(path)))
    return path


def unknown_key(bed: Bed) -> Seen:
    private, _ = certificates.create_node_key()
    path = bed.folder / "unknown.zip"
    write_kit(path, replace(read_kit(bed.kits["north"]), key=private, public_key=b""))
    return _refused(_stranger(bed, "unknown", path), "This site is not registered")


def two_sites_with_one_key(bed: Bed) -> Seen:
    return _refused(_stranger(bed, "twin", bed.kits["north"]), "another computer may be using its kit")


def wrong_authority(bed: Bed) -> Seen:
    other, _ = certificates.create_authority("other")
    path = _kit(bed, "wrongca", lambda kit: replace(kit, certificate=other))
    return _refused(_stranger(bed, "wrongca", path), "does not belong to this kit")


def expired_authority(bed: Bed) -> Seen:
    old, _ = certificates.create_authority("toy", days=-0.5)  # type: ignore[arg-type]
    path = _kit(bed, "oldca", lambda kit: replace(kit, certificate=old))
    return _refused(_stranger(bed, "oldca", path), "The certificate in this kit has ended")


def expired_certificate(bed: Bed) -> Seen:
    """Another front before the same SuperLink, with a certificate of the study's authority that has ended."""
    authority, key = ((bed.study / name).read_bytes() for name in (coordinator.CA_FILE, coordinator.CA_KEY_FILE))
    made = certificates.create_server_certificate(authority, key, host="127.0.0.1", days=-0.5)  # type: ignore[arg-type]
    files = [bed.folder / "old.crt", bed.folder / "old.key"]
    for file, content in zip(files, made, strict=True):
        file.write_bytes(content)
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(_another_front(bed, port, *files))
        path = _kit(bed, "oldcrt", lambda kit: replace(kit, address=f"127.0.0.1:{port}"))
        return _refused(_stranger(bed, "oldcrt", path), "The coordinator's certificate has ended")


def expired_certificate_at_start(bed: Bed) -> Seen:
    """The coordinator renews its own certificate when it starts."""
    assert bed.leader is not None
    authority, key = ((bed.study / name).read_bytes() for name in (coordinator.CA_FILE, coordinator.CA_KEY_FILE))
    mark = bed.mark()
    coordinator.stop(bed.study)
    bed.leader.process.wait(300)
    made = certificates.create_server_certificate(authority, key, host="127.0.0.1", days=-0.5)  # type: ignore[arg-type]
    for name, content in zip((coordinator.CERTIFICATE_FILE, coordinator.SERVER_KEY_FILE), made, strict=True):
        certificates.write_secret(bed.study / name, content)
    bed.start()
    bed.grows(1)
    return bed.judge(mark)


def clock(bed: Bed) -> Seen:
    library = bed.folder / "clock_ahead.so"
    source = Path(__file__).with_name("clock_ahead.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    path = bed.kit("clock")
    result = _stranger(bed, "clock", path, LD_PRELOAD=str(library), CLOCK_AHEAD_S="600")
    return _refused(result, "The clock of this computer is 10 minutes ahead")


def other_contract(bed: Bed) -> Seen:
    """A site that prepares its CTs otherwise is rejected at `declare`, by name; the others go on."""
    other = DataContract((2.0, 2.0, 2.0))
    path = _kit(bed, "contract", lambda kit: replace(kit, site=replace(kit.site, contract=other)))
    mark, folder = bed.mark(), bed.folder / "contract"
    join(path, folder, "kidneys")
    bed.grows(2)
    site.leave(folder)
    coordinator.remove_site(bed.study, "contract")
    bed.grows(1)
    seen = bed.judge(mark)
    return seen if "contract: data contract:" in seen.why else replace(seen, outcome=BROKEN)


def other_flower_in_kit(bed: Bed) -> Seen:
    path = bed.kit("flower")
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    values = json.loads(members["kit.json"]) | {"flwr": "1.39.0"}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (members | {"kit.json": json.dumps(values).encode()}).items():
            file.writestr(name, content)
    return _refused(_stranger(bed, "flower", path), "This kit needs Flower 1.39.0")


def other_flower_at_site(bed: Bed) -> Seen:
    """The private folder of the site holds another release."""
    folder = bed.folder / "private"
    (folder / "flwr-1.39.0.dist-info").mkdir(parents=True)
    (folder / "flwr-1.39.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: flwr\nVersion: 1.39.0\n")
    words = refusal(lambda: check_flower(folder))
    right = "needs Flower" in words and "found 1.39.0" in words
    return Seen(REFUSED if right else BROKEN, words)


def hostile_app(bed: Bed) -> Seen:
    """The coordinator's app tries to run at the sites; it is noted and never unpacked."""
    mark = bed.mark()
    bed.grows(1)
    rows = [row for name in bed.sites for row in journal.read(bed.folder / name / AUDIT_FILE) if row["event"] == "code"]
    ran = (bed.folder / MARKER).exists()
    study = bed.judge(mark)
    decisions = sorted({row["decision"] for row in rows})
    right = rows and not ran and study.outcome == UNDISTURBED
    return Seen(REFUSED if right else BROKEN, f"{decisions}; ran: {ran}; study: {study.outcome}")


def hostile_app_unapproved(bed: Bed) -> Seen:
    """A site that would run the coordinator's code, but nobody there has approved it: it sends a refusal."""
    mark, folder = bed.mark(), bed.folder / "pin"
    options = SiteOptions(cases=HERE, organs=("kidneys",), label_values={}, cores=1, trainer=TRAINER, code="pin")
    site.join(bed.kit("pin"), options, folder=folder, consent=True)
    bed.grows(2)
    site.leave(folder)
    coordinator.remove_site(bed.study, "pin")
    bed.grows(1)
    decisions = sorted({row["decision"] for row in journal.read(folder / AUDIT_FILE) if row["event"] == "code"})
    ran, seen = (bed.folder / MARKER).exists(), bed.judge(mark)
    right = decisions == ["not run: not approved"] and not ran and "has not approved the code" in seen.why
    return replace(seen, outcome=seen.outcome if right else BROKEN, why=f"{decisions}; ran: {ran}; {seen.why}")


def paths_without_a_key(bed: Bed) -> Seen:
    """Every path of Flower's server, asked through the front by somebody with the public certificate alone."""
    mark = bed.mark()
    (pid,) = pids(bed.study, " superlink ")
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    inside = int(words[words.index("--port") + 1])
    offered = json.loads(_ask(bed, inside, "GET", "/openapi.json")[1])["paths"]
    open_ = [
        f"{method} {path}: {status}"
        for path, methods in [*offered.items(), ("/docs", {"get": {}}), ("/openapi.json", {"get": {}})]
        for method in methods
        if (status := _ask(bed, bed.port, method.upper(), path)[0]) != (401 if path in PATHS else 404)
    ]
    bed.grows(1)
    study = bed.judge(mark)
    right = not open_ and len(offered) > 60 and study.outcome == UNDISTURBED
    return Seen(REFUSED if right else BROKEN, f"{len(offered)} paths; open: {open_[:3]}; study: {study.outcome}")


def _ask(bed: Bed, port: int, method: str, path: str) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(bed.study / coordinator.CA_FILE))
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
    try:
        connection.request(method, path, b"", {"Content-Type": "application/protobuf"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _another_front(bed: Bed, port: int, certificate: Path, key: Path) -> "ExitStack":
    """The built-in front as a process of its own, at `port`."""
    (pid,) = pids(bed.study, " superlink ")
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    arguments = ["127.0.0.1", str(port), words[words.index("--port") + 1], str(certificate), str(key)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "segviz_core.federation.front", *arguments, str(bed.study / coordinator.CA_FILE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()  # it listens
    stack = ExitStack()
    stack.callback(process.wait, 20)
    stack.callback(process.stdin.close)  # type: ignore[union-attr]
    return stack


def _no_compiler() -> str:
    return "" if sys.platform == "linux" and shutil.which("cc") else "a C compiler on Linux is needed"


AREA = Area(
    "keys",
    keys_bed,
    (
        Fault("hostile code in the coordinator's app", "site in local mode", REFUSED, hostile_app),
        Fault("hostile code in the coordinator's app", "site in pin mode", REJECTED, hostile_app_unapproved),
        Fault("every path without a key", "through the front", REFUSED, paths_without_a_key),
        Fault("other Flower release", "named in the kit", REFUSED, other_flower_in_kit),
        Fault("other Flower release", "installed at the site", REFUSED, other_flower_at_site),
        Fault("unknown key", "at join", REFUSED, unknown_key),
        Fault("two sites with one key", "the second joins", REFUSED, two_sites_with_one_key),
        Fault("wrong authority", "at join", REFUSED, wrong_authority),
        Fault("expired authority", "in the kit", REFUSED, expired_authority),
        Fault("expired certificate", "of the server, at join", REFUSED, expired_certificate),
        Fault("expired certificate", "of the server, at its start", REPEATED, expired_certificate_at_start),
        Fault("clock 10 minutes off", "at join", REFUSED, clock, needs=_no_compiler),
        Fault("other data contract", "at declare", REJECTED, other_contract),
    ),
)
