"""Networks by name: one file per source of them, found through `resmem_cli.models.architectures.base`."""
