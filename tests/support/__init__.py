"""The shared parts of the tests: clients, servers, proxies, simulated parts."""
