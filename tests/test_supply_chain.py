"""What the package never does: ask the network, unpickle, evaluate text, start a shell."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from gguf_bytes import gguf_bytes

ROOT = Path(__file__).parent.parent
FOLDERS = ("mlx_dequant", "metal", "bridges", "bench")
SOURCES = [path for name in FOLDERS for path in sorted((ROOT / name).rglob("*.py"))]
MODULES = {"pickle", "marshal", "shelve", "dill", "socket", "ssl", "http", "urllib", "ftplib", "requests", "httpx"}
CALLS = {"eval", "exec", "os.system", "os.popen"}  # `mx.eval` computes arrays


def findings(text: str) -> list[str]:
    """What a source has of these."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and not node.level and str(node.module).partition(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            found += [name for name in [ast.unparse(node.func)] if name in CALLS]
            found += [
                f"{word.arg}=True"
                for word in node.keywords
                if word.arg in ("shell", "allow_pickle", "trust_remote_code")
                and not (isinstance(word.value, ast.Constant) and word.value.value is False)
            ]
    return found


def test_no_source_has_any():
    assert len(SOURCES) > 150
    assert {str(path.relative_to(ROOT)): found for path in SOURCES if (found := findings(path.read_text()))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from urllib import request",
        "import http.client",
        "eval('1')",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "np.load('x', allow_pickle=True)",
    ],
)
def test_each_is_found(text):
    assert findings(text)
    assert not findings("import mlx.core as mx\nmx.eval(1)\nsubprocess.run(['ls'], shell=False)")


USE = """
import sys
seen = []
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "urllib.Request")
OTHERS = ("pickle.find_class", "os.system", "os.exec")
sys.addaudithook(lambda event, arguments: seen.append((event, arguments)) if event in NETWORK + OTHERS else None)
import mlx.core as mx
import mlx_dequant as mxd
import mlx_dequant.lm, mlx_dequant.bridges
from mlx_dequant.cli import main
weight = mxd.load(sys.argv[1]).weights["w"]
for backend in mxd.available_backends():
    with mxd.use_backend(backend):
        mx.eval(weight.dequantize(mx.float32), weight.linear(mx.ones((1, 32))), weight.take(mx.array([0])))
assert main(["info", sys.argv[1]]) == 0
print(seen)
if sys.argv[2] == "ask":
    import socket
    try:
        socket.create_connection(("127.0.0.1", 1), 0.1)
    except OSError:
        print(*(event for event, _ in seen))
"""


@pytest.mark.parametrize("more", ["", "ask"])
def test_importing_and_using_it_asks_nobody(more, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes({"w": (8, (1, 32), bytes(34))}))
    done = subprocess.run([sys.executable, "-c", USE, path, more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "[]" in lines
    assert (more == "") != ("socket.connect" in lines[-1])
