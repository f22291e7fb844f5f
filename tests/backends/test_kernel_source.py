"""Kernel sources as text: names, includes, line numbers, and tables that agree with what they stand for."""

import re
import runpy
import sys

import gguf
import pytest
from product_cases import FAMILIES
from specs import every_spec

import mlx_dequant as mxd
from mlx_dequant import encoded, kernel_source, kernels
from mlx_dequant.backends.host import compiler, library
from mlx_dequant.registry import METAL, Format, gguf_format

FORMATS = mxd.formats()
LINE = re.compile(r'#line (\d+) "(.+)"')
FILES = {
    f"{path.parent.name}/{path.name}": path.read_text().splitlines()
    for folder in (METAL, library.FOLDER)
    for path in folder.rglob("*.*")
    if path.suffix in (".metal", ".h", ".cpp")
}


@pytest.fixture
def whole(monkeypatch):
    """Texts as they are read: with comments and all that a kernel does not use."""
    monkeypatch.setattr(kernel_source, "readable", lambda: True)


def every(platform, form, specs=None, dtypes=kernel_source.TYPES):
    """Every kernel source that reads a matrix of a format, built afresh."""
    for spec in specs or every_spec(platform, form):
        for dtype in dtypes:
            for scales in ["float32"] if form.family == "gguf" else kernel_source.TYPES:
                if spec.needs_matrix:
                    yield kernel_source.kernel_source.__wrapped__(platform, form, spec, dtype, scales)


def texts(name):
    """The text that dequantizes a format, on every compiler."""
    form = FORMATS[name]
    for platform in ("metal", "cuda"):
        source = next(every(platform, form, [kernels.DEQUANTIZE]))
        yield source.header + source.body
    yield library.text(form, "dequantize", "float32", "float32")


def test_names_are_unique(whole):
    texts = [source for form in FORMATS.values() for source in every("metal", form, dtypes=["float16"])]
    texts += [source for name in FAMILIES for source in every("metal", FORMATS[name], dtypes=["float32", "bfloat16"])]
    names = [source.name for source in texts]
    names += [source.name for form in FORMATS.values() for source in every("cuda", form, [kernels.DEQUANTIZE])]
    assert len(names) > 1000
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_a_name_depends_on_the_text(monkeypatch):
    def name():
        build = kernel_source.kernel_source.__wrapped__
        return build("metal", FORMATS["q4_0"], kernels.DEQUANTIZE, "float32", "float32").name

    before = name()
    assert name() == before
    read = kernel_source._read
    monkeypatch.setattr(kernel_source, "_read", lambda path: read(path) + "extern int other;\n")
    assert name() != before


def test_launch_parameters_that_disagree_are_refused(monkeypatch):
    monkeypatch.setattr(kernel_source, "PARAMS", (*encoded.PARAMS[1:], encoded.PARAMS[0]))
    with pytest.raises(ValueError, match=r"launch_params.metal: found the fields \('rows', .*expected \('columns', "):
        next(every("metal", FORMATS["q4_0"]))


@pytest.mark.parametrize("name", FORMATS)
def test_every_line_is_where_its_number_says(name, whole):
    """Each included file's lines are there once, and a compiler's error would name the right one."""
    for text in texts(name):
        assert text.isascii()
        seen = {}
        file, number, own = None, 0, []
        for line in text.splitlines():
            match = LINE.fullmatch(line)
            if match:
                file, number = match[2], int(match[1])
                continue
            lines = FILES[file]
            if number > len(lines):
                own.append(line)
            elif line:
                assert line == lines[number - 1], f"{file}:{number}"
                assert number not in seen.setdefault(file, set()), f"{file}:{number} is there twice"
                seen[file].add(number)
            number += 1
        for file, numbers in seen.items():
            wanted = {n for n, line in enumerate(FILES[file], 1) if line and not line.startswith('#include "')}
            assert numbers == wanted, file
        assert f"gguf/{name}.metal" in seen or FORMATS[name].source.endswith(tuple(seen))
        assert sum(line.startswith(f"static_assert({name}::") for line in own) == 1


def test_no_include_is_left():
    for name in FORMATS:
        for text in texts(name):
            assert '#include "' not in text


@pytest.mark.skipif(compiler.compiler() is None, reason="no C++ compiler was found")
@pytest.mark.parametrize("wrong", [Format("q8_0", "gguf", weights=32, bytes=36), Format("gptq4", "gptq", bits=5)])
def test_sizes_that_disagree_do_not_compile(wrong, fresh):
    text = library.text(wrong, "dequantize", "float32", "float32")
    with pytest.warns(RuntimeWarning, match=f"the registry's sizes of {wrong.name}"):
        assert compiler.compiled(wrong.name, text, False) is None


def test_the_registry_is_ggufs():
    known = {kind.name.lower(): kind for kind in gguf.GGMLQuantizationType}
    lacking = []
    for name, form in FORMATS.items():
        if form.family != "gguf":
            continue
        if name not in known:
            lacking.append(name)
            continue
        assert (form.weights, form.bytes) == gguf.GGML_QUANT_SIZES[known[name]], name
        assert form.ggml_type == known[name]
        assert gguf_format(known[name]) is gguf_format(form.title) is form
    assert set(lacking) <= {"q1_0", "q2_0"}
    assert (FORMATS["q1_0"].ggml_type, FORMATS["q2_0"].ggml_type) == (41, 42)


def test_formats_cannot_be_changed():
    with pytest.raises(TypeError):
        FORMATS["mine"] = FORMATS["q4_0"]
    with pytest.raises(AttributeError):
        FORMATS["q4_0"].bytes = 1


def test_tables_are_what_make_writes(tmp_path, monkeypatch):
    folder = METAL / "formats" / "tables"
    monkeypatch.setattr(sys, "argv", ["make.py", str(tmp_path)])
    runpy.run_path(str(folder / "make.py"), run_name="__main__")
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text() for path in folder.glob("*.metal")}
    with_tables = [form for form in FORMATS.values() if form.table]
    assert len(with_tables) == 7
    for form in with_tables:
        assert len(kernel_source.table(form)) == form.traits["lut_words"]


def test_each_format_is_one_file_and_kernels_name_none():
    shared = {"loader", "codes", "signs", "e2m1", "k_scales", "iq1_values"}
    files = {path.stem for path in (METAL / "formats" / "gguf").glob("*.metal")}
    assert files - shared == {name for name, form in FORMATS.items() if form.family == "gguf"}
    for path in (METAL / "kernels").glob("*.metal"):
        assert not set(re.findall(r"\w+", path.read_text())) & set(FORMATS), path.name


def test_device_differences_live_with_the_platform():
    for path in [
        *(METAL / "formats").rglob("*.metal"),
        *(METAL / "kernels").glob("*.metal"),
    ]:
        assert not re.search(r"CUDA|__device__|__global__|__shared__|__METAL|NVRTC", path.read_text()), path.name


def test_a_name_tells_the_type_of_x():
    """Its type is in the text that MLX makes, and a name must not stand for two texts."""
    names = {
        kernel_source.kernel_source("metal", FORMATS["q4_0"], kernels.qmv(1, 1, 4, 32), "float32", input_dtype=x).name
        for x in ("float16", "bfloat16", "float32")
    }
    assert len(names) == 3
