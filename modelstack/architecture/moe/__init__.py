"""Mixture of experts: routers, experts and load balancing."""
