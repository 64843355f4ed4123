"""The studies of `reproduce`: each drives the tool's own stages and puts its figures beside the paper's."""
