"""The only users of torch: networks, their activations, files torch saved. Importing this loads no torch."""
