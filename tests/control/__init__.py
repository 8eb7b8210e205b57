"""The protocol, the server and the clients."""
