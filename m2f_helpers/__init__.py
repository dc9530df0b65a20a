"""Helpers that the Mask2Former notebooks stand on.

Importing this package is cheap: neither torch nor any OpenMMLab library is imported. It only makes sure that mmengine
finds what Python 3.14 dropped (see `install.compat`) and that `import mmcv.ops` works without mmcv's compiled extension
(see `install.mmcv_ops`): import it before mmseg or mmdet.
"""

from m2f_helpers.install import compat as _compat
from m2f_helpers.install import mmcv_ops as _mmcv_ops

__version__ = "0.1.0"

_compat.restore_find_loader()
_mmcv_ops.register()
