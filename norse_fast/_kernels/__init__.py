"""What reaches the kernels: the libraries, and neurons and recurrent layers as PyTorch sees them."""
