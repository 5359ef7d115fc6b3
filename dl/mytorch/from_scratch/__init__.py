"""torch's layers, losses, optimizers and autograd, rebuilt by hand; no model depends on them."""
