"""Networks of containers: addresses, published ports, firewall, and the files that name hosts."""
