"""What the tests share: clients, servers, proxies, simulated parts."""
