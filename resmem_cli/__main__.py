"""`python -m resmem_cli`, the same as `resmem`."""

from resmem_cli.cli.main import main

main()
