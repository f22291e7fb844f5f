"""What machine code of Mesa's AGX compiler consists of, read from what the compiler prints."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BLOCK = re.compile(r"^block(\d+) \{\n(.*?)^\}(?: -> ((?:block\d+ )+))?", re.MULTILINE | re.DOTALL)
_STATISTICS = re.compile(
    r"SHADER-DB: .* (?P<instructions>\d+) inst, .* (?P<bytes>\d+) bytes, (?P<registers>\d+) regs, .* "
    r"(?P<scratch>\d+) scratch, (?P<threads>\d+) threads, \d+ loops, (?P<spills>\d+):(?P<fills>\d+) spills:fills"
)
_MEMORY = ("device_load", "device_store", "local_load", "local_store", "stack_load", "stack_store", "atomic")
_MULTIPLY_ADD = ("ffma", "hfma", "fmul", "hmul", "fadd", "hadd")


@dataclass(frozen=True)
class Loop:
    """A loop, with the loops in it, each once.

    Attributes:
        multiply_adds: instructions of floats, which are at least one for each weight and row of x.
    """

    instructions: int
    memory: int
    multiply_adds: int


@dataclass(frozen=True)
class Machine:
    """A kernel.

    Attributes:
        registers: of 16 bits.
        threads: that a core has registers for.
        scratch: bytes of memory of a thread.
    """

    registers: int
    threads: int
    spills: int
    scratch: int
    code_bytes: int
    instructions: int
    loops: tuple[Loop, ...]


def read(statistics: str, printed: str) -> Machine:
    """What `compiler.compiled` gives, counted."""
    found = _STATISTICS.search(statistics)
    assert found, f"Mesa's statistics have another form than expected: {statistics[-500:]}"
    number = {name: int(value) for name, value in found.groupdict().items()}
    blocks = _blocks(printed)
    return Machine(
        registers=number["registers"] + 1,  # it prints the last one
        threads=number["threads"],
        spills=number["spills"] + number["fills"],
        scratch=number["scratch"],
        code_bytes=number["bytes"],
        instructions=number["instructions"],
        loops=tuple(_loops(blocks)),
    )


def _opcode(line: str) -> str:
    return line.split(" = ", 1)[-1].split()[0].split(".")[0]


def _blocks(printed: str) -> list[tuple[int, list[str], list[int]]]:
    """Number, opcodes and followers of each block of the main function, as it is in the end.

    A function is printed three times; the preamble, which a launch runs once, is a function too.
    """
    dumps = re.split(r"(?m)^(?=block0 \{)", printed)[1:]
    final = [dump for dump in dumps[2::3] if "uniform_store" not in dump]
    assert len(dumps) % 3 == 0 and len(final) == 1, f"found {len(dumps)} dumps, {len(final)} of the main function"
    return [
        (int(number), [_opcode(line) for line in body.splitlines() if line.strip()], _numbers(after))
        for number, body, after in _BLOCK.findall(final[0])
    ]


def _numbers(blocks: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", blocks)]


def _loops(blocks: list[tuple[int, list[str], list[int]]]) -> list[Loop]:
    place = {number: i for i, (number, _, _) in enumerate(blocks)}
    # A block that jumps back ends a loop.
    ends = [
        (place[to], i)
        for i, (_, opcodes, after) in enumerate(blocks)
        if "jmp_exec_any" in opcodes
        for to in after
        if place[to] <= i
    ]
    loops = []
    for first, last in ends:
        opcodes = [opcode for _, block, _ in blocks[first : last + 1] for opcode in block]
        loops.append(
            Loop(
                len(opcodes),
                sum(opcode.startswith(_MEMORY) for opcode in opcodes),
                sum(opcode in _MULTIPLY_ADD for opcode in opcodes),
            )
        )
    return loops
