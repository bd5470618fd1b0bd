"""Mixture-of-Experts: routing, dispatch, experts, statistics."""
