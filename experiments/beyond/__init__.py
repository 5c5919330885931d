"""Experiments that go beyond the papers."""
