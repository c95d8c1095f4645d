"""What all post-training shares: recipe, starting point, driver, adapters, stages."""
