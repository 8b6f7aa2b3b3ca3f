"""Trackers: a process of its own tells them how training goes, so that none of them can hold training up."""
