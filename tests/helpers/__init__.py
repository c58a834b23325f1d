"""What several tests share: servers, nodes, processes that die, a browser."""
