"""Training on several processes: meshes, shards, stages, experts; `parallelize` combines them."""
