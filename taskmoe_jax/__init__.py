"""Multilingual translation with task-level Mixture-of-Experts, on TPU pods."""
