"""Name the Debian packages that the tests need and this machine lacks, and the line to type. Installs nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).with_name("apt.txt")


def main() -> int:
    """Exit status 1, and one sentence on stderr, when a package of `apt.txt` is missing."""
    missing = [package for package in needed(LIST.read_text(encoding="utf-8")) if not installed(package)]
    if missing:
        names = " ".join(missing)
        print(f"The tests need system packages that are missing; type: sudo apt-get install {names}", file=sys.stderr)
    return 1 if missing else 0


def wanted(text: str) -> list[str]:
    """Package names of `apt.txt`: one a line, comments after #."""
    return [line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()]


def needed(text: str) -> list[str]:
    """Names of those without the word `optional` behind them: some tests skip themselves where a program is absent."""
    return wanted("\n".join(line for line in text.splitlines() if "optional" not in line.partition("#")[2]))


def installed(package: str) -> bool:
    """Whether dpkg has `package`; on a system without dpkg the tests themselves have to find out."""
    if shutil.which("dpkg-query") is None:
        return True
    names = (package, f"{package}t64")  # Debian 13 renamed libraries when it widened time_t; apt knows both names
    return any(_status(name) == b"installed" for name in names)


def _status(package: str) -> bytes:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout


if __name__ == "__main__":
    sys.exit(main())
