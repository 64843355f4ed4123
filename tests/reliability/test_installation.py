"""The package built, installed and run where it can't write, in odd surroundings; what its files tell.

Seen to fail: with only the top package listed in pyproject.toml, what is built lacked modules; with
matplotlib's folders left to matplotlib, its warnings stood on stderr where nothing else could be written;
with a chmod to 644 before the rename, the mode under umask 077 was 0o644; with whole paths in the lineage,
`compared.h5` had the folder's. pip-audit ended with status 0 where its service knew of no package at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reliability.canary import Trace, can_trace
from reliability.processes import ONE_THREAD, ForkServer
from reliability.tally import ROOT, Tally
from reliability.workload import Workload

_DROP = 24  # prctl's PR_CAPBSET_DROP
_VULNERABLE = "urllib3==1.24.1"  # for one, CVE-2019-11324
_PASSING_OVER_PERMISSIONS = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
_BUILD = "import setuptools.build_meta as build, sys; print(build.build_{kind}(sys.argv[1]))"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build sdist and wheel from a copy of the sources, the wheel from the unpacked sdist."""
    pytest.importorskip("setuptools", reason="builds the package")
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    skipped = shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", "shared", "build", ".*_cache")
    shutil.copytree(ROOT, source, ignore=skipped)
    _python("-c", _BUILD.format(kind="sdist"), str(folder), cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    _python("-c", _BUILD.format(kind="wheel"), str(folder), cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.fixture(scope="module")
def place(built: dict[str, Path]) -> Iterator[Path]:
    """Install the wheel into a folder that nobody may write to, beside one where work may be done."""
    # Not in pytest's own folder, which other users may not enter.
    folder = Path(tempfile.mkdtemp(prefix="a pläce with späces "))
    try:
        folder.chmod(0o755)
        options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--no-compile")
        _python(
            "-m", "pip", "install", *options, "--target", str(folder / "site päckages"), str(built["wheel"])
        )
        for path in [folder / "site päckages", *(folder / "site päckages").rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        (folder / "work hére").mkdir()
        (folder / "read only").mkdir(mode=0o555)
        yield folder
    finally:
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


def _python(*words: str, cwd: Path | None = None) -> str:
    done = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _obey_permissions() -> None:
    """Have the program that is started next obey permissions even as root, whom none would stop."""
    if os.geteuid() == 0:
        system = ctypes.CDLL(None)
        for capability in _PASSING_OVER_PERMISSIONS:
            system.prctl(_DROP, capability, 0, 0, 0)


def test_what_is_built_is_whole(built: dict[str, Path], tally: Tally) -> None:
    with tarfile.open(built["sdist"]) as archive:
        sdist = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(built["wheel"]) as archive:
        wheel = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "resmem_cli").rglob("*.py")}
    for names in (sdist, wheel):
        assert modules | {"resmem_cli/py.typed"} <= names
        assert not [name for name in names if name.endswith((".pyc", ".h5"))]
    assert {"README.md", "pyproject.toml"} <= sdist
    assert not [name for name in wheel if not name.startswith(("resmem_cli/", "resmem_cli-"))]
    tally.count("installation", "built whole", 2)


_ASCII = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
# The first ones put several together; the long part has them one by one.
_SURROUNDINGS = {
    "in ASCII, without a home, stdin closed": {**_ASCII, "HOME": None, "CLOSED": "0"},
    "where nothing else can be written": {"HOME": "read only", "TMPDIR": "read only"},
    "with all streams closed": {"CLOSED": "0 1 2"},
    "in ASCII": _ASCII,
    "without a home": {"HOME": None},
    "with a home that is not there": {"HOME": "read only/nowhere"},
    "with a home that can't be written": {"HOME": "read only"},
    "without room for temporary files": {"TMPDIR": "read only"},
    "with a folder of matplotlib that can't be written": {"MPLCONFIGDIR": "read only"},
    "with stdin closed": {"CLOSED": "0"},
    "with stdout closed": {"CLOSED": "1"},
    "with stderr closed": {"CLOSED": "2"},
}
_N_QUICK = 3


def test_nothing_can_be_written_there(place: Path) -> None:
    script = "import sys; open(sys.argv[1], 'w')"
    for folder in ("site päckages", "read only"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(place / folder / "x")],
            capture_output=True,
            preexec_fn=_obey_permissions,
            check=False,
        )
        assert b"PermissionError" in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if number < _N_QUICK else pytest.mark.long)
        for number, name in enumerate(_SURROUNDINGS)
    ],
)
def test_runs_from_where_it_can_t_write(name: str, place: Path, small: Workload, tally: Tally) -> None:
    changes = {**_SURROUNDINGS[name]}
    closed = [int(number) for number in (changes.pop("CLOSED", None) or "").split()]
    env = {"PATH": os.environ["PATH"], "HOME": str(place / "work hére"), **ONE_THREAD,
           "PYTHONPATH": str(place / "site päckages")}  # fmt: skip
    for key, value in changes.items():
        env.pop(key, None)
        if value is not None:
            env[key] = str(place / value) if value.startswith("read only") else value
    work = place / "work hére" / name
    work.mkdir()
    shutil.copy(small.inputs / "arrays.npz", work)

    def run(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "resmem_cli", *words],
            cwd=work,
            env=env,
            capture_output=True,
            preexec_fn=lambda: [_obey_permissions(), *map(os.close, closed)],
            check=False,
        )
        told = done.stderr.decode(errors="replace")
        assert done.returncode == 0, f"{words}\n{told}"
        others = [line for line in told.splitlines() if not line.startswith("resmem: ")]
        assert not others, f"{words}\n{told}"

    run("run", "arrays.npz", "--sample", "100", "-o", "rün")
    run("analyze", "rün/predictions.h5", "--html", "página.html", "-o", "report.h5")
    assert (work / "página.html").stat().st_size
    assert not [*work.glob(".*")], "left behind"
    assert not [*(place / "site päckages").rglob("*.pyc")]
    tally.count("installation", "done")


_WRITES = (
    "import in/arrays.npz --split train -o train.h5",
    "run in/arrays.npz --sample 100 -o run",
    "analyze in/predictions-exact.h5 -o report.h5 --html report.html --figures figures",
    "export in/predictions-exact.h5 -o out.csv",
    "export in/report.h5 -o out.json",
    "export in/predictions-exact.h5 -o out.npz",
    "export in/predictions-exact.h5 -o out.parquet",
    "theory --dimensions 2 --norm-bounds 0.6 --rows 1,8 --repetitions 2 --test-points 20 -o theory.h5 "
    "--markdown theory.md",
    "embed in/digits.safetensors in/digits_test.npz --arch in.train_digits:make_network -o digits.h5",
)


def write_all(folder: str, umask: int) -> None:
    """Run every command that writes, in forks of this process."""
    os.chdir(folder)
    os.umask(umask)
    for line in _WRITES:
        child = os.fork()
        if child == 0:
            sys.argv = ["resmem", *line.split()]
            from resmem_cli.__main__ import main

            with contextlib.redirect_stdout(sys.stderr):
                main()
        assert os.waitpid(child, 0)[1] == 0, line


@pytest.mark.parametrize(
    "umask", [0o077, *(pytest.param(umask, marks=pytest.mark.long) for umask in (0o022, 0o002))], ids=oct
)
def test_permissions_follow_the_umask(umask: int, tmp_path: Path, small: Workload, tally: Tally) -> None:
    place = small.place(tmp_path / "place")
    trace = Trace(tmp_path / "calls", "chmod,fchmod,fchmodat")
    with ForkServer(under=trace.words if can_trace() else ()) as server:
        server.call(write_all, str(place), umask, seconds=120)
    written = [path for path in place.rglob("*") if place / "in" not in (path, *path.parents)]
    assert {path.suffix for path in written} >= {
        ".h5",
        ".html",
        ".csv",
        ".json",
        ".md",
        ".npz",
        ".svg",
        ".parquet",
    }
    for path in written:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, f"{oct(mode)} of {path}"
    changes = [call for call in trace.news() if "chmod" in call]
    assert not changes, f"permissions were changed afterwards: {changes}"
    tally.count("installation", "permissions as wished", len(written))


def test_no_file_tells_where_or_by_whom_it_was_made(small: Workload, tally: Tally) -> None:
    names = {
        str(small.inputs.parent),
        str(ROOT),
        str(Path.home()),
        tempfile.gettempdir() + "/",
        platform.node(),
    }
    names |= {f"/{getpass.getuser()}/"}
    for path in sorted(small.inputs.iterdir()):
        if path.name in ("train_digits.py", "digits.safetensors", "digits_test.npz"):
            continue
        content = path.read_bytes()
        told = [name for name in names if len(name) > 3 and name.encode() in content]
        assert not told, f"{path.name} has {told}"
        tally.count("installation", "tells nothing of its place")


@pytest.mark.long
def test_installs_from_the_sdist_into_an_environment_of_its_own(
    built: dict[str, Path], tmp_path: Path, tally: Tally
) -> None:
    _python("-m", "venv", str(tmp_path / "environment"))
    python = tmp_path / "environment" / "bin" / "python"
    for words in (
        ["-m", "pip", "install", "--quiet", str(built["sdist"])],
        ["-m", "pip", "check"],
        ["-m", "resmem_cli", "--version"],
    ):
        done = subprocess.run([python, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    tally.count("installation", "installed from the sdist")


@pytest.mark.long
@pytest.mark.parametrize("service", ["pypi", "osv"])
def test_no_installed_package_has_a_known_vulnerability(service: str, tmp_path: Path, tally: Tally) -> None:
    """Ask a service of known vulnerabilities; one that knows nothing, or can't be reached, is skipped."""
    _python("-m", "venv", str(tmp_path / "audit"))
    python = tmp_path / "audit" / "bin" / "python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "pip-audit"], capture_output=True, text=True, check=False
    )
    if installed.returncode:
        pytest.skip(f"pip-audit can't be installed: {installed.stderr.strip()[-200:]}")
    listed = _python("-m", "pip", "list", "--format", "freeze", "--exclude-editable")

    def audit(lines: list[str]) -> list[dict[str, Any]]:
        (tmp_path / "packages.txt").write_text("\n".join(lines))
        done = subprocess.run(
            [python, "-m", "pip_audit", "-r", "packages.txt", "--no-deps", "--disable-pip", "-f", "json",
             "--vulnerability-service", service, "--progress-spinner", "off"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        if not done.stdout.startswith("{"):
            pytest.skip(f"the service {service} can't be reached: {done.stderr.strip()[-300:]}")
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        return packages

    # A package that the service does not know is passed over, with status 0.
    if not any(package.get("vulns") for package in audit([_VULNERABLE])):
        pytest.skip(f"the service {service} knows nothing, not even of {_VULNERABLE}")
    # A version of a local build, such as torch's +cpu, is known by what comes before.
    packages = audit([line.partition("+")[0] for line in listed.splitlines()])
    assert not [package for package in packages if package.get("vulns")]
    told_of = [package for package in packages if "skip_reason" not in package]
    tally.count("installation", f"no vulnerability known to {service}", len(told_of))
