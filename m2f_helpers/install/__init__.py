"""What the machine needs: the environment check, the stand-in for mmcv's compiled ops, and fast kernels."""
