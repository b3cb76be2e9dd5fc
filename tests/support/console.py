"""Sessions at a terminal, as documents show them: `$ command` lines, each with what it prints below."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROMPT = "$ "
CONTINUED = "> "
# Stands for what differs from run to run, inside a line or instead of lines.
ANYTHING = "…"
# The tour's first command builds the wheel.
COMMAND_WAIT_S = 1200.0
# For what a command in the background prints.
SOON_WAIT_S = 60.0


@dataclass
class Step:
    """A command, and the lines that are shown below it."""

    line: int
    command: str
    shown: list[str] = field(default_factory=list)


def steps(text: str, first_line: int = 1) -> list[Step]:
    """The commands of a session."""
    found: list[Step] = []
    for number, line in enumerate(text.splitlines(), first_line):
        if line.startswith(PROMPT):
            found.append(Step(number, line.removeprefix(PROMPT)))
        elif line.startswith(CONTINUED) and found and not found[-1].shown:
            found[-1].command += "\n" + line.removeprefix(CONTINUED)
        elif found:
            found[-1].shown.append(line)
    return found


def fenced(page: Path, *languages: str) -> Iterator[tuple[str, int, str]]:
    """The fenced blocks of a page in these languages: language, line, text."""
    text = page.read_text()
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1] in languages:
            yield match[1], text.count("\n", 0, match.start(2)) + 1, match[2]


def shows(shown: list[str], printed: list[str]) -> str | None:
    """Whether the shown lines stand in what was printed, in that order; else the line that does not."""
    rest = iter(printed)
    for line in shown:
        if line.strip() in ("", ANYTHING):
            continue
        pattern = re.sub(r"([\[\]*?])", r"[\1]", line).replace(ANYTHING, "*")
        if not any(fnmatch.fnmatchcase(p.rstrip(), pattern.rstrip()) for p in rest):
            return line
    return None


class Shell:
    """One bash in which commands run one after the other, as at a terminal."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=os.environ | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.printed: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.printed.extend(line.rstrip("\n") for line in iter(self.process.stdout.readline, ""))

    def run(self, step: Step) -> None:
        """Run a command: it succeeds, and prints what is shown below it (one in the background: soon)."""
        assert self.process.stdin is not None
        start = len(self.printed)
        mark = f"--- {step.line} ended:"
        # What it prints may not end its line.
        self.process.stdin.write(f"{step.command}\nprintf '\\n%s\\n' \"{mark} $?\"\n")
        self.process.stdin.flush()
        is_background = step.command.split("#")[0].rstrip().endswith("&")
        end = time.monotonic() + (SOON_WAIT_S if is_background else COMMAND_WAIT_S)
        missing: str | None = "the end"
        while time.monotonic() < end and self.process.poll() is None:
            printed = self.printed[start:]
            ended = [line for line in printed if line.startswith(mark)]
            if ended:
                missing = shows(step.shown, printed)
                if ended[0] != f"{mark} 0" or missing is None:
                    break
                if not is_background:
                    break
            time.sleep(0.02)
        printed = self.printed[start:]
        said = "\n".join(printed)
        assert any(line == f"{mark} 0" for line in printed), f"line {step.line}: {step.command}\n{said}"
        assert missing is None, f"line {step.line}: {step.command}\ndoes not print: {missing}\nbut:\n{said}"

    def end_jobs(self) -> None:
        """End what commands started in the background and left running."""
        assert self.process.stdin is not None
        self.process.stdin.write("kill $(jobs -p) 2>/dev/null; wait\n")

    def close(self) -> None:
        """End the shell and wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(SOON_WAIT_S)
