"""Material that a pipeline makes for itself: raw pages, conversations, requests, documents."""
