"""Step functions of neurons, spike functions and resets: everything without trainable state of its own."""
