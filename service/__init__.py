"""spineprint: from spine CT to a printed, sterilised vertebra model and back from the O-arm.

Research and engineering software. Not a medical device.
"""

import os

# Before numpy is loaded anywhere. The products here are small: shared out over threads they take six times the CPU,
# and their sums come out in another order on a machine with other cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"

NOTICE = (
    "Research and engineering software. Not a medical device; not cleared by any authority. "
    "Every result needs review by a qualified clinician; a sterile-release decision remains "
    "with the responsible sterile-services person."
)
