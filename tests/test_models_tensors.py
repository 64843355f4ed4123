"""Files written by torch.save, opened as numpy arrays."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from resmem_cli.errors import DataError, MissingExtraError, MissingInputError, ResourceError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.tensors import load_tensors  # noqa: E402
from resmem_cli.models.torchfile import TorchFileKind, read_torch_file, torch_file_kind  # noqa: E402


class Touches:
    """Unpickling one creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.canary}",))


def saved(path: Path, value: object, **options: object) -> Path:
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_bare_tensor_has_the_empty_key(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "z.pt", torch.arange(6.0).reshape(3, 2), _use_new_zipfile_serialization=zipped)

    arrays = load_tensors(path)

    assert list(arrays) == [""]
    assert arrays[""].dtype == np.float32
    assert_array_equal(arrays[""], [[0, 1], [2, 3], [4, 5]])


def test_keys_of_nested_containers_are_joined_in_the_files_order(tmp_path: Path) -> None:
    ones = torch.ones(2)
    value = OrderedDict(
        train={"embeddings": ones, "epoch": 3, "name": "run 1"},
        layers=[ones * 2, None, (ones * 3,)],
        labels=torch.tensor([1, 0]),
    )

    arrays = load_tensors(saved(tmp_path / "z.pth", value))

    assert list(arrays) == ["train/embeddings", "layers/0", "layers/2/0", "labels"]
    assert_array_equal(arrays["layers/2/0"], [3, 3])
    assert arrays["labels"].dtype == np.int64


def test_bfloat16_is_widened_without_loss(tmp_path: Path) -> None:
    value = torch.tensor([1.0, -2.5, 3.140625, float("inf")], dtype=torch.bfloat16)

    array = load_tensors(saved(tmp_path / "z.pt", {"x": value}))["x"]

    assert array.dtype == np.float32
    assert_array_equal(array, [1.0, -2.5, 3.140625, np.inf])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8", "bool", "uint16"])
def test_types_numpy_knows_are_kept(tmp_path: Path, dtype: str) -> None:
    value = torch.tensor([0, 1, 1], dtype=getattr(torch, dtype))

    array = load_tensors(saved(tmp_path / "z.pt", value))[""]

    assert array.dtype == np.dtype(dtype)
    assert_array_equal(array, np.array([0, 1, 1], dtype=dtype))


def test_parameters_views_and_sparse_neighbours(tmp_path: Path) -> None:
    value = {
        "parameter": torch.nn.Parameter(torch.eye(2)),
        "transposed": torch.arange(6).reshape(2, 3).T,
        "sparse": torch.eye(3).to_sparse(),
    }

    arrays = load_tensors(saved(tmp_path / "z.pt", value))

    assert list(arrays) == ["parameter", "transposed"]
    assert_array_equal(arrays["transposed"], [[0, 3], [1, 4], [2, 5]])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="lists mappings as Linux does")
def test_a_zip_format_file_is_mapped_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "mapped_here.pt", torch.zeros(1 << 18))

    array = load_tensors(path)[""]

    assert "mapped_here.pt" in Path("/proc/self/maps").read_text()
    array[0] = 1.0
    assert load_tensors(path)[""][0] == 0.0, "writing into the array must not reach the file"


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "z.pt", {"a/b": torch.ones(1), "a": {"b": torch.ones(1)}})

    with pytest.raises(DataError, match="a/b: two tensors have the same name"):
        load_tensors(path)


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, [1, "two"], torch.eye(2).to_sparse()])
def test_a_file_with_no_dense_tensor_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(DataError, match="holds no dense tensor"):
        load_tensors(saved(tmp_path / "z.pt", value))


def test_a_container_that_holds_itself_is_refused(tmp_path: Path) -> None:
    loop: list[object] = []
    loop.append(loop)

    with pytest.raises(DataError, match="nested more than"):
        load_tensors(saved(tmp_path / "z.pt", loop))


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_hostile_pickle_is_refused_and_its_code_is_not_run(tmp_path: Path, kind: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "z.pt"
    value = {"x": torch.ones(2), "y": Touches(canary)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"y": Touches(canary)}))
    else:
        saved(path, value, _use_new_zipfile_serialization=kind == "zip")

    with pytest.raises(DataError, match=r"needs pickle code to load.*refused.*torch\.save") as caught:
        load_tensors(path)

    assert str(path) in str(caught.value)
    assert not canary.exists()


def test_weights_only_holds_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary = tmp_path / "canary"

    with pytest.raises(DataError):
        load_tensors(saved(tmp_path / "z.pt", Touches(canary)))

    assert not canary.exists()


def test_numpy_arrays_inside_are_refused_with_the_name_of_the_code(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found numpy\S+_reconstruct"):
        load_tensors(saved(tmp_path / "z.pt", {"x": np.zeros(3)}))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_is_not_an_array_file(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)

    assert torch_file_kind(path) is TorchFileKind.TORCHSCRIPT
    with pytest.raises(DataError, match=r"written by torch\.jit\.save, not an array file"):
        load_tensors(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello, world\n", b"\x80", b"\x80\x02", b"PK\x03\x04", bytes(range(256)) * 4]
)
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "z.pt"
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"z\.pt"):
        load_tensors(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, zipped: bool, share: float) -> None:
    whole = saved(tmp_path / "z.pt", {"x": torch.arange(500.0)}, _use_new_zipfile_serialization=zipped)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])

    with pytest.raises(DataError, match="truncated, damaged"):
        load_tensors(cut)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "z.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no tensors here")

    with pytest.raises(DataError, match="not a file that torch.save wrote"):
        load_tensors(path)


@settings(max_examples=150, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), zipped=st.booleans())
def test_one_changed_byte_never_ends_in_a_raw_error(
    tmp_path_factory: pytest.TempPathFactory, position: float, value: int, zipped: bool
) -> None:
    buffer = io.BytesIO()
    torch.save({"x": torch.arange(6.0), "n": [1]}, buffer, _use_new_zipfile_serialization=zipped)
    content = bytearray(buffer.getvalue())
    content[int(position * len(content))] = value
    path = tmp_path_factory.getbasetemp() / "changed.pt"
    path.unlink(missing_ok=True)  # the last example's file may still be mapped
    path.write_bytes(content)

    with contextlib.suppress(DataError, ResourceError):
        load_tensors(path)


@pytest.mark.parametrize("read", [load_tensors, read_torch_file, torch_file_kind])
def test_a_file_that_is_not_there(tmp_path: Path, read: object) -> None:
    with pytest.raises(MissingInputError, match="No such file"):
        read(tmp_path / "none.pt")  # type: ignore[operator]
    with pytest.raises(MissingInputError, match="Is a directory"):
        read(tmp_path)  # type: ignore[operator]


def test_the_package_imports_no_torch() -> None:
    code = "import sys, resmem_cli.models; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules is how Python itself marks a module that can't be imported.
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "resmem_cli.models.extra")

    with pytest.raises(MissingExtraError, match=r"needs torch.*pip install 'resmem-cli\[torch\]'"):
        importlib.import_module("resmem_cli.models.extra")
