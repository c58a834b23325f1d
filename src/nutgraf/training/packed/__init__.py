"""Train several adapters in one process, over one base."""
