"""The DKSM interface without the DKSM kernel."""

__version__ = "0.1.0"
