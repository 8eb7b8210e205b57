"""The DKSM interface without the DKSM kernel."""
