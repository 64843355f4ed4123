"""One function per command: paths and a frozen config in, a StageResult out; prints nothing."""
