"""Readers of checkpoints: one file per kind, found through `resmem_cli.models.loaders.base`."""
