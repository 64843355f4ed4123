"""The command `resmem`, and `python -m resmem_cli`: what has to be done before anything is imported."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line and end the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until the command line listens to signals, a traceback through imports would tell nothing.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Where its children were ignored, as by some supervisors, it could not wait for its own.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    from resmem_cli.cli.failures import run_and_exit
    from resmem_cli.cli.limited import go_on_where_a_crash_is_told

    go_on_where_a_crash_is_told()
    run_and_exit(_run)


def _run() -> int | None:
    # For these imports too there may be no memory.
    from resmem_cli.cli.main import run

    return run()


if __name__ == "__main__":
    main()
