"""The studies of `reproduce cifar`, one a module, each registered by its name."""
