"""Collection of hidden states with torch, and the fit of a monitor's probes on them."""
