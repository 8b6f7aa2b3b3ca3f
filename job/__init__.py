"""Graft: one container run turns a base model and a dataset into a proven adapter."""

__version__ = "0.1.0"
