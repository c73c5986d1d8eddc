"""A process that runs tests against changed modules: one fork a mutant, so that what is large is imported once.

It reads requests as JSON, a line each, and answers each with a line: ``survived``, ``killed`` or ``killed: time``.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Attacker:
    """The process, and the way to ask it."""

    def __init__(self):
        command = [sys.executable, "-m", "tests.campaigns.attack"]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        environment |= {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)

    def outcome(self, module: str, source: str, tests: Sequence[str], graphs: int, seconds: int) -> str:
        """Run pytest's arguments `tests`, then so many random graphs, against `source` in the place of `module`.

        `seconds` of processor time are what that may take.
        """
        request = {"module": module, "source": source, "tests": list(tests), "graphs": graphs, "seconds": seconds}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError("the process that runs mutants ended")
        return answer

    def kill(self) -> None:
        """End the process at once; the mutant it runs ends by its limit of time."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *_) -> None:
        self.kill()


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module whose source is given, ahead of its file."""

    def __init__(self, module: str, source: str):
        self._module, self._source = module, source

    def find_spec(self, name, path=None, target=None):
        if name != self._module:
            return None
        origin = str(ROOT / f"{name.replace('.', '/')}.py")
        spec = importlib.util.spec_from_loader(name, self, origin=origin)
        spec.has_location = True
        return spec

    def exec_module(self, module) -> None:
        exec(compile(self._source, module.__spec__.origin, "exec"), module.__dict__)


def _attack(request: dict) -> int:
    """Return 0 where nothing fails."""
    for limit, most in ((resource.RLIMIT_CPU, request["seconds"]), (resource.RLIMIT_AS, 8 << 30)):
        resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))  # hwq's own children set theirs
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    sys.meta_path.insert(0, _Changed(request["module"], request["source"]))
    if request["tests"]:
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
        if code := pytest.main([*options, *request["tests"]]):
            return int(code)
    if request["graphs"]:
        import numpy as np

        from tests.campaigns import graphs

        for index in range(request["graphs"]):
            rng = np.random.default_rng([graphs.CAMPAIGN.number, index])
            rng.integers(graphs.ONE_IN_RTL)
            graphs.check("machine").hypothesis.fuzz_one_input(rng.bytes(graphs.BYTES))
    return 0


def _serve() -> None:
    import hypothesis
    import numpy
    import onnx
    import onnxruntime
    import pytest

    assert all((hypothesis, numpy, onnx, onnxruntime, pytest))
    assert not any(name.partition(".")[0] == "hwq" for name in sys.modules), "a mutant must be the first to be imported"
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            code = 1
            try:
                code = _attack(request)
            except BaseException:  # whatever a mutant raises
                code = 1
            finally:
                os._exit(code and 1)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            time = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
            print("killed: time" if time else "killed", flush=True)
        else:
            print("killed" if os.WEXITSTATUS(status) else "survived", flush=True)


if __name__ == "__main__":
    _serve()
