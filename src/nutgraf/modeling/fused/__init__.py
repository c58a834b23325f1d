"""Train the decoder layers of the Llama family on a CPU with few, wide products and few passes."""
