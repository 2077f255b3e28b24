"""What tests share: a private engine, images made on the spot, fakes of ports, the leak check."""
