"""One training over several processes: meshes, shards, stages, experts; `parallelize` puts them together."""
