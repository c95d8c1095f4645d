"""Quality of retrieval: questions about this documentation, and the pages that answer them."""
