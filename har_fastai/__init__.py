__version__ = "0.0.1"

import warnings

# raised by fastai when it is imported; who uses this package can do nothing about them
warnings.filterwarnings('ignore', r'`torch\.jit\.script` is deprecated', FutureWarning)
warnings.filterwarnings('ignore', r"The 'mode\.chained_assignment' option is deprecated")
