"""How fast dksmfs is, always beside something real that was measured in the same minutes."""
