"""spineprint: from spine CT to a printed, sterilised vertebra model and back from the O-arm.

Research and engineering software. Not a medical device.
"""

__version__ = "0.1.0"

NOTICE = (
    "Research and engineering software. Not a medical device; not cleared by any authority. "
    "Every result needs review by a qualified clinician; a sterile-release decision remains "
    "with the responsible sterile-services person."
)
