"""Vertebrae labelled by a trained network that the site installs, such as TotalSegmentator's, without PyTorch.

The site converts the network once, in an environment of its own, with `deploy/convert_segmentation_model.py`. What
that writes, `model.onnx` and `model.json`, is read, checked and run here with onnxruntime.
"""

from adapters.segmentation.segmenter import InstalledSegmenter

__all__ = ["InstalledSegmenter"]
