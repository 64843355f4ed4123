"""The same commands on many machines: shards as tasks of Dask's `distributed`."""
