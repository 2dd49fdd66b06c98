"""nbval with workflow/kernels.py: a kernel that stays silent once does not fail its notebook."""

import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT

SILENT = """
import nbval.kernel

start, calls = nbval.kernel.start_new_kernel, []

def silent_at_first(*args, **kwargs):
    calls.append(1)
    if len(calls) <= {times}:
        raise RuntimeError("Kernel didn't respond in 60 seconds")
    return start(*args, **kwargs)

nbval.kernel.start_new_kernel = silent_at_first
"""


def run_nbval(folder, *options: str) -> subprocess.CompletedProcess:
    cell = nbformat.v4.new_code_cell("print(6 * 7)")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "one.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "--nbval-lax"]
    command += [f"--rootdir={folder}", f"--confcutdir={folder}", str(folder / "one.ipynb")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("times", "options", "passed"),
    [(1, (), False), (2, ("-p", "workflow.kernels"), True), (3, ("-p", "workflow.kernels"), False)],
    ids=["nbval alone", "silent twice", "silent always"],
)
def test_a_silent_kernel_is_started_again(tmp_path, times, options, passed):
    (tmp_path / "conftest.py").write_text(SILENT.format(times=times))
    done = run_nbval(tmp_path, *options)
    assert (done.returncode == 0) == passed, done.stdout[-3000:] + done.stderr[-1000:]
    if not passed:
        assert "Kernel didn't respond" in done.stdout


def test_other_errors_are_not_tried_again():
    sys.path.insert(0, str(ROOT))
    try:
        from workflow.kernels import persistent
    finally:
        sys.path.remove(str(ROOT))
    calls = []

    def start(name):
        calls.append(name)
        raise ValueError(name)

    with pytest.raises(ValueError, match="python9"):
        persistent(start)("python9")
    assert calls == ["python9"]
