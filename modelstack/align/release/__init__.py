"""A release: one signed folder with weights, card, licence, figures, data provenance, bill and checksums."""
