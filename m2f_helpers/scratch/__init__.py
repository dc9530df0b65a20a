"""The whole Mask2Former in plain PyTorch: the network, its losses, its three kinds of output. Notebook 07."""
