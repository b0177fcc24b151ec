"""Files of images to plain values and volumes, and masks onto their grid. No network.

Importing this package stops pydicom from checking the form of values it reads: its warnings quote the values,
which may be a patient's, into the log.
"""

from pydicom import config as _pydicom_config

_pydicom_config.settings.reading_validation_mode = _pydicom_config.IGNORE
