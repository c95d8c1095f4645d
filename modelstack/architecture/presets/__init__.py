"""Model families, one per file; `registry` lists them."""
