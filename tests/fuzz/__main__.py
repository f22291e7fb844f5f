"""`make fuzz`: edits of the corpus for so many seconds, coverage-guided where atheris is installed.

    python -m tests.fuzz --seconds 600        # every target in turn
    python -m tests.fuzz --target gguf FILE   # one input again

A finding is written to build/fuzz, named and raised; the last line says how many inputs were tried.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from importlib.util import find_spec
from pathlib import Path
from random import Random

from . import edits
from .targets import FOLDER, TARGETS

CORPUS, FOUND = Path(__file__).parent / "corpus", Path("build/fuzz")
PATIENCE = 5  # seconds of CPU for an input; ten times that in all, for the machine may be busy
ROOM = 64 << 20  # bytes of memory beyond an input's size
KEPT = 200  # inputs between two looks at the memory in use
GUIDED = ["mlx_dequant.loading", "mlx_dequant.weights", "mlx_dequant.lm.gguf_tokenizer", "mlx_dequant.lm.vocabularies"]


class Hang(Exception):
    """An input took longer than `PATIENCE`."""


def _hang(*_: object) -> None:
    raise Hang(f"more than {PATIENCE} s")


def _limit(extra: int) -> None:
    """Lets the process have so many bytes of address space more than now; none: as many as it likes. On Linux."""
    if sys.platform != "linux":
        return
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if extra else 0
    resource.setrlimit(resource.RLIMIT_AS, (size + extra if extra else resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def attempt(name: str, data: bytes) -> str:
    """Gives an input to a target. What went wrong; "" if nothing did."""
    signal.signal(signal.SIGALRM, _hang)
    signal.signal(signal.SIGPROF, _hang)
    signal.alarm(10 * PATIENCE)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            TARGETS[name](data)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a panic of Rust's is not an Exception
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    return ""


def seeds(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def _keep(name: str, data: bytes, problem: str) -> None:
    FOUND.mkdir(parents=True, exist_ok=True)
    path = FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    print(f"{path}:\n{problem}", flush=True)


def random_edits(name: str, seconds: float, seed: int, stop: bool = True) -> tuple[int, int]:
    """Inputs tried, and how many of them went wrong, by different lines of code."""
    random, good = Random(seed), seeds(name)
    for data in good:
        TARGETS[name](data)  # imports what takes long
    end, tried, lines = time.monotonic() + seconds, 0, set()
    while time.monotonic() < end:
        if tried % KEPT == 0:
            _limit(ROOM)
        data = edits.apply(random.choice(good), edits.some(random))
        tried += 1
        problem = attempt(name, data)
        if problem:
            _limit(0)
            where = re.findall(r'File "([^"]*mlx_dequant[^"]*)", line (\d+)', problem)[-1:] or [problem]
            if str(where) not in lines:
                lines.add(str(where))
                _keep(name, data, problem)
            if stop:
                break
            _limit(ROOM)
    _limit(0)
    return tried, len(lines)


def guided(name: str, seconds: float) -> tuple[int, int]:
    """The same by atheris, in a process of its own: it ends with that."""
    FOUND.mkdir(parents=True, exist_ok=True)
    code = f"""import atheris
with atheris.instrument_imports(include={GUIDED}):
    from tests.fuzz.__main__ import under_atheris
under_atheris({name!r})"""
    options = [
        f"-max_total_time={int(seconds)}",
        f"-timeout={10 * PATIENCE}",
        "-print_final_stats=1",
        "-rss_limit_mb=4096",
    ]
    grown = FOUND / "corpus" / name
    grown.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", code, *options, f"-artifact_prefix={FOUND}/{name}-", grown, CORPUS / name]
    done = subprocess.run(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
    found = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    if done.returncode or found is None:
        print(done.stdout[-6000:])
    return int(found[1]) if found else 0, int(done.returncode != 0)


def under_atheris(name: str) -> None:
    import atheris  # pyright: ignore[reportMissingImports]

    TARGETS[name](seeds(name)[0])  # imports what takes long
    sys.argv[0] = name

    def one_input(data: bytes) -> None:
        problem = attempt(name, data)
        if problem:
            print(problem, flush=True)
            raise SystemError("a finding")

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together (60)")
    parser.add_argument("--target", choices=TARGETS, action="append", help="this one alone; may be repeated")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random edits (the time)")
    parser.add_argument("--random", action="store_true", help="random edits, even where atheris is installed")
    parser.add_argument("--go-on", action="store_true", help="go on after a finding (random edits)")
    parser.add_argument("file", nargs="?", type=Path, help="try this input alone")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    if options.file:
        TARGETS[names[0]](seeds(names[0])[0])  # imports what takes long
        print(attempt(names[0], options.file.read_bytes()) or "well")
        return 0
    engine = "random" if options.random or not find_spec("atheris") else "atheris"
    tried = wrong = 0
    for name in names:
        seconds = options.seconds / len(names)
        if engine == "random":
            count, problems = random_edits(name, seconds, options.seed, not options.go_on)
        else:
            count, problems = guided(name, seconds)
        print(f"{name}: {count:,} inputs by {engine} edits, {problems} findings", flush=True)
        tried, wrong = tried + count, wrong + problems
    for path in sorted(FOLDER.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    FOLDER.rmdir()
    print(f"seed: {options.seed}\ninputs tried: {tried}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
