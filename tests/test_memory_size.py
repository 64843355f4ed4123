"""Sizes of memory as people write them."""

import pytest

from resmem_cli.errors import UsageError
from resmem_cli.memory_size import memory_text, parse_memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8G", 8 << 30),
        ("8g", 8 << 30),
        ("8GB", 8 << 30),
        ("8GiB", 8 << 30),
        (" 8 GiB ", 8 << 30),
        ("500M", 500 << 20),
        ("1.5K", 1536),
        ("2T", 2 << 40),
        ("2000", 2000),
        ("2000B", 2000),
        ("0.001K", 1),
    ],
)
def test_sizes(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "8X",
        "8GG",
        "8iB",
        "-8G",
        "+8G",
        "1e3",
        "8,5G",
        "0",
        "0.5",
        "nan",
        "٣G",
        "9999999999T",
        "9" * 400,
    ],
)
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match=r"no size of memory \(expected a size such as 500M or 8G, found '"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (8 << 30, "8.0 GiB"),
        (25 << 20, "25 MiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_text(size, text):
    assert memory_text(size) == text
