"""The HDF5 files the commands read and write: the only code that uses h5py."""
