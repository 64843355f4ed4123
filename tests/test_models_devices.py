"""Choosing a device, and telling that its memory ran out."""

from __future__ import annotations

import pytest

from resmem_cli.errors import ResourceError, UsageError

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.capture import EmbeddingCapture  # noqa: E402
from resmem_cli.models.checkpoint import Network  # noqa: E402
from resmem_cli.models.devices import choose_device, is_out_of_memory, telling_batch_memory  # noqa: E402

HAS_CUDA = torch.cuda.is_available()
HAS_MPS = torch.backends.mps.is_available()
NETWORK = Network(torch.nn.Linear(2, 2).eval(), digest="0" * 64, arch="test")


def test_auto_takes_the_best_there_is() -> None:
    best = "cuda:0" if HAS_CUDA else "mps" if HAS_MPS else "cpu"

    assert str(choose_device("auto")) == best
    assert EmbeddingCapture(NETWORK).device_name == best
    assert EmbeddingCapture(NETWORK, device="cpu").device_name == "cpu"


@pytest.mark.skipif(HAS_CUDA, reason="this machine has CUDA")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_asked_for_and_absent_tells_what_there_is(name: str) -> None:
    with pytest.raises(UsageError, match=rf"--device: .*no such device \(expected .*cpu, found {name}\)"):
        EmbeddingCapture(NETWORK, device=name)


@pytest.mark.skipif(HAS_MPS, reason="this machine has MPS")
def test_mps_asked_for_and_absent() -> None:
    with pytest.raises(UsageError, match="no such device"):
        choose_device("mps")


def test_a_number_beyond_the_last_device() -> None:
    with pytest.raises(UsageError, match="no such device"):
        choose_device("cuda:99")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:0", "cuda:", "cuda:x", "meta"])
def test_a_name_of_no_device_lists_the_choices(name: str) -> None:
    with pytest.raises(UsageError, match=r"--device: not a device \(expected auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_are_a_lack_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError, match="x"), telling_batch_memory(torch.device("cpu"), (2, 3)):
        raise KeyError("x")
    with (
        pytest.raises(ResourceError, match="--batch-size 1"),
        telling_batch_memory(torch.device("cpu"), (2, 3)),
    ):
        torch.empty(1 << 45)


@pytest.mark.skipif(not HAS_CUDA, reason="needs CUDA")
def test_cuda_gives_the_cpus_rows_and_the_same_bits_twice() -> None:
    torch.manual_seed(0)
    body = [torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Flatten()]
    net = torch.nn.Sequential(*body, torch.nn.Linear(16 * 36, 10)).eval()
    images = torch.randn(32, 3, 8, 8).numpy()
    network = Network(net, digest="0" * 64, arch="test")
    expected = EmbeddingCapture(network, device="cpu")
    rows = expected.run(expected.prepare(images))
    capture = EmbeddingCapture(network, device="cuda")
    first, second = (capture.run(capture.prepare(images)) for _ in range(2))

    torch.testing.assert_close(first.embeddings, rows.embeddings, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first.logits, rows.logits, atol=1e-5, rtol=1e-5)
    assert (first.logits == second.logits).all()
