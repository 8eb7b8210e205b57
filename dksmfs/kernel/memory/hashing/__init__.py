"""The hashes of frames, of which DKSM's checksums are a part; a module for each shortcut."""
