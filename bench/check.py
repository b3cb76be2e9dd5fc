"""`make bench-check`: instructions of each part of a request's way, against the counts that are kept here.

callgrind counts the same on every run of one build, so what rose is the code and not the machine. Each part runs a
few times and many times; the difference is free of what starting costs. `--write` keeps the counts found.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "support")]

KEPT = Path(__file__).resolve().parent / "instructions.json"
STAGES = {
    "decode-json": 1024,
    "decode-binary": 1024,
    "batch": 4096,
    "hash": 1024,
    "prove": 512,
    "encode-binary": 1024,
    "encode-json-proven": 1024,
    "host-round-trip": 256,
}
# Two threads wait for and wake each other, as often as the machine's mood has it: shown, and not judged.
SHOWN_ONLY = {"host-round-trip"}
FEW = 64
# Another compiler counts otherwise; a change of the code beyond this is looked at.
TOLERANCE = 0.05


def instructions(program: str, stage: str, times: int, more: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += [program, "stage", stage, "--times", str(times), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return int(found[1])


def for_hosts(folder: Path) -> list[str]:
    import models
    import onnxruntime

    identity = folder / "identity.onnx"
    identity.write_bytes(models.identity(models.DTYPES["FP32"], ["N", "M"]).SerializeToString())
    [library] = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
    return ["--library", str(library), "--model", str(identity)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program", help="grey-bench")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is missing; install it with: apt-get install valgrind")
    kept: dict[str, int] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    found: dict[str, int] = {}
    rose = []
    with tempfile.TemporaryDirectory() as folder:
        hosts = for_hosts(Path(folder))
        for stage, many in STAGES.items():
            more = hosts if stage == "host-round-trip" else []
            few, all_ = (instructions(args.program, stage, n, more) for n in (FEW, FEW + many))
            found[stage] = round((all_ - few) / many)
            before = kept.get(stage)
            change = f"{found[stage] / before - 1:+.1%}" if before else "new"
            if before and stage not in SHOWN_ONLY and found[stage] > before * (1 + TOLERANCE):
                rose.append(stage)
                change += "  ROSE"
            print(f"   {stage:20} {found[stage]:10,} instructions  {change}", flush=True)
    if args.write:
        KEPT.write_text(json.dumps(found, indent=2) + "\n")
    elif rose:
        raise SystemExit(f"more instructions than are kept in {KEPT.name}: {', '.join(rose)}")


if __name__ == "__main__":
    main()
