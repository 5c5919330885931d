"""The version, where setuptools reads it without importing the library."""

__version__ = "0.1.0"
