__version__ = "0.0.1"

import os
import warnings

# OpenMP's threads wait for each other in loops, for up to a millisecond: beside other programs, training then takes several times
# as long (benchmarks/shared_cores.py). With fewer loops they sleep soon. Read when PyTorch is imported, on Linux
if 'OMP_WAIT_POLICY' not in os.environ: os.environ.setdefault('GOMP_SPINCOUNT', '5000')

# raised by fastai when it is imported; who uses this package can do nothing about them
warnings.filterwarnings('ignore', r'`torch\.jit\.script` is deprecated', FutureWarning)
warnings.filterwarnings('ignore', r"The 'mode\.chained_assignment' option is deprecated")
