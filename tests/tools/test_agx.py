"""Our kernels by Mesa's compiler for Apple's GPUs (tools/agx): committed counts keep to the limits, and are true."""

import json

import pytest
from agx import limits
from agx.__main__ import RESULTS, rows, table
from agx.compiler import AgxError, asahi_clc, opencl, translatable
from agx.machine import read
from agx.programs import mlx_qmv, ours, title
from specs import every_spec

from mlx_dequant.registry import FAMILIES, formats

ROWS = json.loads(RESULTS.read_text())["rows"]
needs_compiler = pytest.mark.skipif(asahi_clc() is None, reason="Mesa's AGX compiler is not built: `make agx`")


def test_every_program_has_a_row():
    found = [(row["format"], row["has_g_idx"], row["kernel"], tuple(row["template"])) for row in ROWS]
    assert len(found) == len(set(found))
    for form in formats().values():
        specs = [spec for spec in every_spec("metal", form) if spec.needs_matrix]
        both = (False, True) if "g_idx" in dict(FAMILIES[form.family].arrays) else (False,)
        for has_g_idx in both:
            those = [
                spec for spec in specs if (spec.permuted or not spec.multiplies if has_g_idx else not spec.permuted)
            ]
            expected = {(title(spec), spec.template) for spec in those}
            assert {one[2:] for one in found if one[:2] == (form.name, has_g_idx)} == expected


def test_nothing_is_over_its_limit():
    assert limits.broken(ROWS, limits.read()) == []


def test_limits_are_as_tight_as_what_was_reached():
    assert limits.tightened(ROWS, limits.read()) == limits.read()


@pytest.mark.parametrize("number", limits.NUMBERS)
def test_what_is_over_a_limit_is_named(number):
    worse = [{**row, number: row[number] * 9} if limits.name(row) == "q4_0 qmv M=1" else row for row in ROWS]
    (fault,) = limits.broken(worse, limits.read())
    assert fault.startswith("q4_0 qmv M=1: found ") and number in fault
    assert limits.tightened(worse, limits.read()) == limits.read()


def test_a_new_spill_is_named():
    calm = next(row for row in ROWS if limits.name(row) not in limits.read()["spilling"])
    spilt = [{**row, "spills": 1} if row is calm else row for row in ROWS]
    assert limits.broken(spilt, limits.read()) == [f"{limits.name(calm)}: spills"]


def test_mlx_is_beside():
    four = next(row for row in ROWS if row["format"] == "mlx-4")
    assert four["instructions_per_weight"] == 4.41
    assert {row["format"] for row in ROWS if row["format"].startswith("mlx")} == {
        f"mlx-{n}" for n in (2, 3, 4, 5, 6, 8)
    }
    line = next(line for line in table(ROWS).splitlines() if line.startswith("q4_k qmv M=1"))
    assert line.endswith("4.41")


def test_places_become_variables():
    text = "[[kernel]] void k(device uint* a [[buffer(0)]], uint3 t [[thread_position_in_threadgroup]]) {a[0] = t.x;}"
    made = opencl(text, (256, 1, 1))
    assert "void k(device uint* a) {" in made and "uint3 t = uint3(get_local_id(0)," in made
    with pytest.raises(AgxError, match=r"found .*threads_per_grid"):
        opencl("[[kernel]] void k(uint3 t [[threads_per_grid]]) {}", (256, 1, 1))


def test_tables_become_arguments():
    made = translatable(
        "@t = internal unnamed_addr addrspace(2) constant [2 x i8] [i8 1, i8 2], align 1\n"
        "define dso_local spir_kernel void @k(i8 addrspace(1)* %a) local_unnamed_addr #0 !kernel_arg_type !3 {\n"
        "  %p = getelementptr inbounds [2 x i8], [2 x i8] addrspace(2)* @t, i64 0, i64 %i\n"
        "  %f = freeze i64 %i\n  %g = add i64 %f, 1\n}\n"
    )
    assert "void @k(i8 addrspace(1)* %a, [2 x i8] addrspace(2)* %table.0) local" in made
    assert "@t" not in made and "freeze" not in made and "%g = add i64 %i, 1" in made


def test_loops_are_counted():
    block = "block0 {\n   mov_imm r0, #0\n}\n"
    loop = "block1 {\n   r0 = device_load u0, r1\n   r2 = ffma r0, r1, r2\n   jmp_exec_any\n}"
    main = f"{block}{loop} -> block1 block2 \nblock2 {{\n   stop\n}}\n"
    statistics = (
        "SHADER-DB: k - MESA_SHADER_COMPUTE shader: 5 inst, 3 alu, 3 fscib, 0 ic, 64 bytes, 75 regs, 8 uniforms, "
        "16 scratch, 1024 threads, 1 loops, 2:3 spills:fills"
    )
    machine = read(statistics, main * 3)
    assert (machine.registers, machine.spills, machine.scratch, machine.code_bytes) == (76, 5, 16, 64)
    ((found),) = machine.loops
    assert (found.instructions, found.memory, found.multiply_adds) == (3, 1, 1)


@needs_compiler
def test_a_fresh_run_gives_what_is_committed():
    programs = [
        *ours(["q4_k", "iq3_s"], kernels=["qmv"], M=1),
        *ours(["gptq4"], kernels=["qvm"], M=1),
        *ours(["q8_0"], kernels=["dequantize"]),
        *mlx_qmv((4,)),
    ]
    found, failed = rows(programs)
    assert failed == []
    assert [row for row in found if row not in ROWS] == []
