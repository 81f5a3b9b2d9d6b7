"""What README, CONTRIBUTING and the coordinator's page promise exists: commands, targets, files."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "docs/coordinator.md"]
README_COMMANDS = ["make demo", "make test"]


def commands(page: str, start: str) -> list[str]:
    """Lines of the page's shell blocks that begin with `start`, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(start)]


def test_readme_begins_with_its_two_commands() -> None:
    assert commands("README.md", "make ") == README_COMMANDS


@pytest.mark.parametrize("target", ["setup", "demo", "test", "test-312", "lint", "clean"])
def test_target_exists_and_starts_with_the_set_up(target: str) -> None:
    """`make -n` prints what a target would run, and fails for a target that does not exist."""
    answer = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert ("setup_environment.py" in answer.stdout) == (target != "clean")


@pytest.mark.parametrize("line", [line for page in PAGES for line in commands(page, ".venv/bin/python -m segviz_core")])
def test_command_line_of_a_page_is_understood(line: str) -> None:
    from segviz_core.__main__ import _parser

    words = shlex.split(line)
    assert _parser().parse_args(words[words.index("segviz_core") + 1 :]).command


@pytest.mark.parametrize("page", PAGES)
def test_file_that_a_page_links_to_exists(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not ((ROOT / page).parent / link).exists()] == []


def test_ci_runs_lint_and_all_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make (\w+)$", script, re.MULTILINE) == ["lint", "test"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
