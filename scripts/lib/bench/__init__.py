"""What `scripts/bench` is made of: networks, servers, loads, tables."""
