"""The version of the tool, written into every artifact."""

__version__ = "0.1.0"
